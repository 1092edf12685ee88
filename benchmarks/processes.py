"""The processes of a benchmark, seen from the one that starts them."""

import contextlib
import json
import os
import select
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
LONGEST_ANSWER = 600.0


class Worker(NamedTuple):
    """A process that answers requests, how it began, and where its stderr goes."""

    command: list[str]
    surroundings: dict[str, str]
    process: subprocess.Popen[str]
    errors: IO[str]


class Crashed(RuntimeError):
    """A worker died or did not answer."""


def environment(
    threads: int,
    device: str = "cpu",
    *,
    tf32: bool = False,
    keep_memory: bool = False,
) -> dict[str, str]:
    """The same surroundings for every peer, set before anything is imported."""
    count = str(threads)
    on_gpu = {
        # All libraries share the GPU's memory, so none takes most of it at once.
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        "JAX_DEFAULT_MATMUL_PRECISION": "tensorfloat32" if tf32 else "float32",
        "BENCHMARKS_TF32": str(int(tf32)),
    }
    # What `rnnjax.kernels.keep_memory` sets, for every library.
    kept = {
        "MALLOC_MMAP_THRESHOLD_": "2147483647",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_ARENA_MAX": "1",
    }
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        **dict.fromkeys(names, count),
        "PYTHONPATH": os.pathsep.join(path),
        "JAX_PLATFORMS": {"cpu": "cpu", "gpu": "cuda,cpu"}[device],
        "JAX_ENABLE_X64": "0",
        "BENCHMARKS_DEVICE": device,
        **(on_gpu if device == "gpu" else {}),
        **(kept if keep_memory else {}),
    }


def program(arguments: list[str], threads: int) -> tuple[float, str]:
    """Run a whole program of Python: seconds from start to exit, and its last line.

    It gets a folder to write to, ``--out``, which is deleted afterwards.

    Raises:
      Crashed: it failed; what it wrote to stderr was shown.
    """
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, *arguments, "--out", out]
        began = time.perf_counter()
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=environment(threads),
            stdout=subprocess.PIPE,
            text=True,
        )
        seconds = time.perf_counter() - began
    if done.returncode:
        raise Crashed(f"{shlex.join(command)} failed")
    return seconds, done.stdout.strip().splitlines()[-1]


def start(
    peer: str, threads: int, surroundings: dict[str, str] | None = None
) -> Worker:
    """Start a peer; `greeting` waits until it has imported its library.

    ``surroundings`` are its environment, that of a CPU if None.
    """
    command = [sys.executable, "-m", "benchmarks.worker", peer, str(threads)]
    return run(command, surroundings or environment(threads))


def run(command: list[str], surroundings: dict[str, str]) -> Worker:
    """Start a process that greets and replies, as `benchmarks.worker.answer` does."""
    errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 (`stop` closes it)
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        env=surroundings,
    )
    return Worker(command, surroundings, process, errors)


@contextlib.contextmanager
def running(command: list[str], surroundings: dict[str, str]) -> Iterator[Worker]:
    """The same for as long as it is needed."""
    worker = run(command, surroundings)
    try:
        yield worker
    finally:
        stop(worker)


def greeting(worker: Worker) -> Any:
    """The first that it says. A peer: ``{"versions": …}`` or ``{"missing": …}``."""
    return _read(worker)


def ask(worker: Worker, **request: Any) -> Any:
    """Send one request and wait for its answer."""
    stdin = worker.process.stdin
    assert stdin is not None
    try:
        stdin.write(json.dumps(request) + "\n")
        stdin.flush()
    except BrokenPipeError:
        raise Crashed(_last_words(worker)) from None
    return _read(worker)


def restart(worker: Worker) -> Worker:
    """A new process in place of one that died; what it had prepared is lost."""
    stop(worker)
    fresh = run(worker.command, worker.surroundings)
    greeting(fresh)
    return fresh


def stop(worker: Worker) -> None:
    """End a worker that was started here."""
    if worker.process.stdin is not None:
        worker.process.stdin.close()
    try:
        worker.process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        worker.process.kill()
        worker.process.wait()
    if worker.process.stdout is not None:
        worker.process.stdout.close()
    worker.errors.close()


def _read(worker: Worker) -> Any:
    stdout = worker.process.stdout
    assert stdout is not None
    if not select.select([stdout], [], [], LONGEST_ANSWER)[0]:
        worker.process.kill()
        raise Crashed(f"no answer for {LONGEST_ANSWER:.0f} s")
    line = stdout.readline()
    if not line:
        worker.process.wait()
        raise Crashed(_last_words(worker))
    return json.loads(line)


def _last_words(worker: Worker) -> str:
    worker.errors.seek(0)
    lines = worker.errors.read().strip().splitlines()[-5:]
    return f"exit status {worker.process.poll()}; " + " | ".join(lines)
