"""Compare the libraries: ``python -m benchmarks.compare --help``."""

import argparse
import itertools
import os
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import agree, machine, processes, report, tables
from benchmarks.peers import DEVICES
from benchmarks.rounds import BUSY, Effort, Mismatch, Workers, run
from benchmarks.workloads import CELLS, DTYPES, OTHERS, WORKLOADS


def main(arguments: list[str] | None = None) -> int:
    """Run the command; 0 if all was measured, 1 if not, 2 if it was called wrongly."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _options(arguments)
    results: dict[str, Any] = {
        "command": _command(arguments),
        "date": time.strftime("%Y-%m-%d"),
        "machine": machine.describe(),
        "threads": options.threads,
        "rounds": options.rounds,
        "seconds": options.seconds,
        "quick": options.quick,
        "device": options.device,
        "gpus": options.gpus,
        "tf32": options.tf32,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "idle": machine.idle_check(),
        "versions": {},
        "about": {},
        "missing": {},
        "cases": [],
    }
    workers: Workers = {}
    began = time.monotonic()
    try:
        _start(options, workers, results)
        print("\n".join(tables.heading(results)), flush=True)
        if not workers:
            print("None of the libraries asked for is installed.", file=sys.stderr)
            return 2
        with tempfile.TemporaryDirectory(prefix="benchmarks-") as arrays:
            _measure(options, workers, results, Path(arrays))
    except Mismatch as mismatch:
        print(f"\nStopped: not all compute the same.\n{mismatch}", file=sys.stderr)
        return 1
    finally:
        for worker in workers.values():
            processes.stop(worker)
    results["minutes"] = (time.monotonic() - began) / 60
    report.write(results, options.out)
    print(f"\nWritten to {options.out}: {', '.join(report.FILES)}")
    if options.update_docs:
        for path in report.update_docs(results, options.out):
            print(f"Updated {path}")
    failed = tables.failures(results)
    print("\n".join(failed), file=sys.stderr)
    return 1 if failed else 0


def _options(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.compare",
        description="Time rnnjax beside torch and the JAX libraries, each in a process "
        "of its own, by turns, after comparing what they compute.",
        epilog="Workloads: "
        + " · ".join(f"{key} {w.title}" for key, w in WORKLOADS.items()),
    )

    def some_of(known):
        def parse(text):
            chosen = tuple(text.split(","))
            unknown = [word for word in chosen if word not in known]
            if unknown:
                raise argparse.ArgumentTypeError(
                    f"{','.join(unknown)} is not among {','.join(known)}"
                )
            return chosen

        return parse

    def several(name, known, help, default):
        parser.add_argument(
            name,
            type=some_of(tuple(known)),
            metavar="A,B",
            help=f"{help}, of {','.join(known)} (default: {default})",
        )

    several("--workloads", WORKLOADS, "rows", "all that the device has")
    several("--peers", DEVICES["gpu"], "libraries", "all that the device has")
    several("--cells", CELLS + OTHERS, "cells", "all")
    several("--dtypes", DTYPES, "dtypes", "float32")
    parser.add_argument(
        "--device",
        choices=tuple(DEVICES),
        default="cpu",
        help="where all of them compute (default: cpu)",
    )
    parser.add_argument(
        "--tf32",
        action="store_true",
        help="a GPU may round the factors of float32 products to TF32, in all "
        "libraries; what they compute is then compared less closely",
    )
    parser.add_argument(
        "--keep-memory",
        action="store_true",
        help="glibc keeps what a call has needed for the next one, in all libraries; "
        "by default it gives large blocks back to the system",
    )
    cores = len(machine.cores())
    parser.add_argument(
        "--threads",
        type=int,
        choices=range(1, cores + 1),
        default=cores,
        metavar=f"1…{cores}",
        help="cores and threads for each library (default: all)",
    )
    parser.add_argument(
        "--rounds", type=int, default=5, help="turns of each library (default: 5)"
    )
    parser.add_argument(
        "--seconds",
        type=float,
        default=0.3,
        help="time for the calls of a library in a case, all rounds together; at least "
        "one call a round is made (default: 0.3)",
    )
    parser.add_argument(
        "--warm",
        action="store_true",
        help="never count the first call of a turn, as in a loop that keeps its caches "
        "and memory; by default this holds for short calls only",
    )
    parser.add_argument(
        "--input-gradients",
        action="store_true",
        help="in backward, differentiate by the inputs too",
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that everything runs"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build/benchmarks"),
        help="folder for the results (default: build/benchmarks)",
    )
    parser.add_argument(
        "--update-docs",
        action="store_true",
        help="write the figures into docs/performance.md and the README",
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error(f"--rounds is {options.rounds}; expected 1 or more")
    if options.quick and options.update_docs:
        parser.error("--quick measures nothing; leave it out with --update-docs")
    if options.device == "gpu" and options.update_docs:
        parser.error("the figures in the docs are a CPU's; leave out --update-docs")
    if options.device == "cpu" and options.tf32:
        parser.error("--tf32 is for a GPU; add --device gpu")
    here = {
        "workloads": [k for k, w in WORKLOADS.items() if options.device in w.devices],
        "peers": list(DEVICES[options.device]),
    }
    for name, known in here.items():
        chosen = getattr(options, name) or tuple(known)
        if absent := [word for word in chosen if word not in known]:
            parser.error(
                f"--{name} {','.join(absent)} is not for --device {options.device}, "
                f"which has {','.join(known)}"
            )
        setattr(options, name, chosen)
    options.gpus = machine.gpus() if options.device == "gpu" else []
    if options.device == "gpu" and not options.gpus:
        parser.error(
            "there is no NVIDIA GPU here, for nvidia-smi names none: run this where "
            'there is one, after pip install -e ".[cuda,peers]" and a torch with CUDA'
        )
    options.cells = options.cells or CELLS + OTHERS
    options.dtypes = options.dtypes or DTYPES[:1]
    return options


def _command(arguments: list[str]) -> str:
    """What to type to measure the same; where the results went is not part of it."""
    kept = [a for a in arguments if a != "--update-docs"]
    if "--out" in kept:
        place = kept.index("--out")
        del kept[place : place + 2]
    return shlex.join(["python", "-m", "benchmarks.compare", *kept])


def _start(options: Any, workers: Workers, results: dict[str, Any]) -> None:
    """All libraries import at once; none of that is timed."""
    around = processes.environment(
        options.threads,
        options.device,
        tf32=options.tf32,
        keep_memory=options.keep_memory,
    )
    started = {
        peer: processes.start(peer, options.threads, around) for peer in options.peers
    }
    workers.update(started)
    for peer, worker in started.items():
        greeting = processes.greeting(worker)
        if "missing" in greeting:
            results["missing"][peer] = greeting["missing"]
            processes.stop(workers.pop(peer))
        else:
            results["versions"][peer] = greeting["versions"]
            results["about"][peer] = greeting["about"]


def _measure(
    options: Any, workers: Workers, results: dict[str, Any], arrays: Path
) -> None:
    slack = {
        "float32": agree.TF32 if options.tf32 else 1.0,
        "bfloat16": agree.BFLOAT16,
    }
    for letter, dtype in itertools.product(options.workloads, options.dtypes):
        print(f"\n{letter}, {dtype}: {WORKLOADS[letter].title}", flush=True)
        effort = Effort(options.rounds, options.seconds, options.warm, slack[dtype])
        for group in WORKLOADS[letter].groups(options.cells, options.quick):
            if group[0].mode == "product" and dtype != "float32":
                continue  # shares are of the float32 product
            changed = {"input_gradients": options.input_gradients, "dtype": dtype}
            group = [case._replace(**changed) for case in group]
            entries = run(group, workers, effort, arrays)
            results["cases"] += entries
            for entry in entries:
                print(tables.line(entry), flush=True)
            busy = sum(entries[0]["others"].values())
            if busy > BUSY:
                print(f"  others took {busy:.0%} of the cores meanwhile", flush=True)
            report.write_json(results, options.out)


if __name__ == "__main__":
    sys.exit(main())
