"""A step a call, and single sequences: what two settings of JAX change on a CPU.

    python -m benchmarks.latency [--rounds 7] [--calls 400]

prints two Markdown tables. The first has microseconds for a call that runs one step of
an LSTM, from the sample in NumPy to the output in NumPy: torch's ``LSTMCell``, our
``cell.step`` compiled as JAX is and with ``jax_cpu_enable_async_dispatch=False``, and
`rnnjax.streaming.advance` with the latter. The second has milliseconds for 1,000 steps
of cells without a kernel, forward / with the gradient of the params: through the native
engine, and through ``rnnjax.scan.by_scan``, as XLA is and with

    XLA_FLAGS=--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000

All columns of a table are processes of their own, which take turns; figures are medians
of all calls.
"""

import argparse
import contextlib
import importlib
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import machine, processes, worker

INPUTS = 8
UNITS = (8, 32, 64)
FLAG = "--xla_backend_extra_options=xla_cpu_small_while_loop_byte_threshold=1000000000"
STEPS = ("torch", "step", "step, synchronous", "advance, synchronous")
WALKS = {"engine": {}, "scan": {}, "scan with the flag": {"XLA_FLAGS": FLAG}}
# Cell, batch (0 is one sequence without a batch), inputs and units.
SEQUENCES = [
    ("indrnn", 0, 16),
    ("mgu", 0, 16),
    ("mgu", 0, 64),
    ("indrnn", 16, 64),
    ("mgu", 16, 64),
    ("mgu", 16, 256),
]
TIME = 1000


def torch_step(units: int) -> Callable[[], Any]:
    """A call of torch's cell."""
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    cell = torch.nn.LSTMCell(INPUTS, units)
    state = torch.zeros(1, units), torch.zeros(1, units)
    x = np.ones(INPUTS, np.float32)

    def call():
        nonlocal state
        with torch.inference_mode():
            state = cell(torch.from_numpy(x)[None], state)
            return state[0].numpy()

    return call


def our_step(column: str, units: int) -> Callable[[], Any]:
    """A call of our cell, or of streaming."""
    jax, rnnjax = (importlib.import_module(name) for name in ("jax", "rnnjax"))
    if column.endswith("synchronous"):
        jax.config.update("jax_cpu_enable_async_dispatch", False)
    cell = rnnjax.lstm(INPUTS, units)
    params = cell.init(jax.random.key(0))
    x = np.ones(INPUTS, np.float32)
    if column.startswith("advance"):
        state = rnnjax.streaming.init(cell, params, slots=1)
        state, _ = rnnjax.streaming.join(state)
        xs = x[None, None]

        def advance(params, state, x):
            return rnnjax.streaming.advance(cell, params, state, xs)

        step = advance
    else:
        step, state = jax.jit(cell.step), cell.initial_carry(params)

    def call():
        nonlocal state
        state, y = step(params, state, x)
        return np.asarray(y)

    return call


def walk(
    column: str, name: str, batch: int, units: int, gradient: bool
) -> Callable[[], Any]:
    """A call that walks."""
    jax, rnnjax = (importlib.import_module(name) for name in ("jax", "rnnjax"))
    scan = rnnjax.scan
    traversal = scan.default if column == "engine" else scan.by_scan
    cell = getattr(rnnjax, name)(units, units, traversal=traversal)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (max(batch, 1), TIME, units))

    def outputs(params):
        if batch:
            return rnnjax.unroll(cell, params, xs)[1]
        return cell.unroll(params, cell.initial_carry(params), xs[0])[1]

    run = jax.jit(
        jax.grad(lambda params: (outputs(params) ** 2).mean()) if gradient else outputs
    )
    return lambda: jax.block_until_ready(run(params))


def serve(column: str) -> None:
    """Prepare a case, or time calls of the last one."""
    call: Callable[[], Any] = list

    def reply(request):
        nonlocal call
        if "calls" in request:
            taken = []
            for _ in range(request["calls"]):
                began = time.perf_counter()
                call()
                taken.append(time.perf_counter() - began)
            return taken
        if column == "torch":
            call = torch_step(request["units"])
        elif "units" in request:
            call = our_step(column, request["units"])
        else:
            call = walk(column, *request["sequence"])
        for _ in range(3):
            call()
        return None

    worker.answer(None, reply)


def medians(peers: dict[str, Any], rounds: int, calls: int, **case: Any) -> list[float]:
    """Seconds of a call of each, by turns."""
    for process in peers.values():
        processes.ask(process, **case)
    taken = {peer: [] for peer in peers}
    for _, (peer, process) in itertools.product(range(rounds), peers.items()):
        taken[peer] += processes.ask(process, calls=calls)
    return [statistics.median(t) for t in taken.values()]


def row(label: str, entries: list[str]) -> None:
    """A row of a Markdown table."""
    print(f"| {label} |", " | ".join(entries), "|", flush=True)


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.latency",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--calls", type=int, default=400)
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve)
        return 0
    about = machine.describe()
    print(f"{about['processor']} ({about['vector_units']}), {about['cores']} cores")
    command = [sys.executable, "-m", "benchmarks.latency", "--serve"]

    def opened(columns):
        peers = {
            name: stack.enter_context(
                processes.running([*command, name], processes.environment(1) | settings)
            )
            for name, settings in columns.items()
        }
        for process in peers.values():
            processes.greeting(process)
        print()
        row("", list(peers))
        print("|---|" + "---:|" * len(peers))
        return peers

    effort = options.rounds, options.calls
    with contextlib.ExitStack() as stack:
        peers = opened({column: {} for column in STEPS})
        for units in UNITS:
            found = medians(peers, *effort, units=units)
            row(f"{units} units", [f"{1e6 * t:.1f}" for t in found])
    with contextlib.ExitStack() as stack:
        peers = opened(WALKS)
        for name, batch, units in SEQUENCES:
            # A long call says as much as many short ones.
            calls = max(1, options.calls // (20 * max(1, batch)))
            both = [
                medians(peers, options.rounds, calls, sequence=(name, batch, units, g))
                for g in (False, True)
            ]
            what = f"batch {batch}" if batch else "one sequence"
            row(
                f"{name}, {units} units, {what}",
                [f"{1e3 * f:.3g} / {1e3 * g:.3g}" for f, g in zip(*both, strict=True)],
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
