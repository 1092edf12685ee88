"""What a step of learning on the way takes, next to braintrace.

    python -m benchmarks.online --braintrace PYTHON [--units 32] [--rounds 7]

``PYTHON`` is that of an environment with braintrace, which does not install beside this
library; without it our times stand alone. Each library has its own process, and they
take turns. Both get the same params, inputs and weights of the outputs, and their
outputs and gradients are compared before anything is timed. The table has microseconds
for a step of one sequence, with the gradient of its output: medians of whole sequences
in one compiled program.
"""

import argparse
import contextlib
import importlib
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import machine, processes, worker

PEERS = {
    "rnnjax": "benchmarks.peers.rnnjax_online",
    "braintrace": "benchmarks.peers.braintrace_online",
}
INPUTS = 8
CASES = [
    (cell, rule)
    for rule in ("e_prop", "snap", "rtrl")
    for cell in ("elman", "lstm", "gru")
]
CASES += [("min_gru", "units"), ("indrnn", "units")]
# Of these the gradients differ, as docs/online.md explains.
DIFFER = ("snap",)


def problem(cell: str, units: int, steps: int) -> tuple[dict[str, np.ndarray], Any]:
    """Params in our letters, and inputs and weights of the outputs."""
    draw = np.random.default_rng(0).normal
    gates = {"lstm": 4, "gru": 3, "min_gru": 2}.get(cell, 1)
    columns = gates * units
    shapes: dict[str, tuple[int, ...]] = {
        "w_ih": (INPUTS, columns),
        "w_hh": (units, columns),
        "b": (columns,),
    }
    if cell == "gru":
        shapes["b_hn"] = (units,)
    if cell == "min_gru":
        shapes = {"w": (INPUTS, columns), "b": (columns,)}
    if cell == "indrnn":
        shapes["u"] = (1, units)
        del shapes["w_hh"]
    params = {
        name: draw(size=shape).astype(np.float32) / np.float32(shape[0] ** 0.5)
        for name, shape in shapes.items()
    }
    data = [draw(size=(steps, size)).astype(np.float32) for size in (INPUTS, units)]
    return params, data


def serve(peer: str) -> None:
    """Prepare a case, or time the last one."""
    library = importlib.import_module(PEERS[peer])
    jax = importlib.import_module("jax")
    run, data = None, ()

    def reply(request):
        nonlocal run, data
        if "cell" in request:
            cell, rule = request["cell"], request["rule"]
            params, data = problem(cell, request["units"], request["steps"])
            run = library.prepare(cell, rule, params)
            ys, grads = run(*data)
            np.savez(request["to"], ys=ys, **grads)
            return None
        assert run is not None
        run(*data)
        began = time.perf_counter()
        jax.block_until_ready(run(*data))
        return time.perf_counter() - began

    worker.answer(machine.versions(library.PACKAGES), reply)


def check(one: Path, other: Path, rule: str) -> None:
    """Outputs and gradients agree to float32's rounding."""
    with np.load(one) as ours, np.load(other) as theirs:
        for name in ours:
            if name != "ys" and rule in DIFFER:
                continue
            largest = np.abs(theirs[name]).max()
            apart = np.abs(ours[name] - theirs[name]).max() / largest
            if not apart < 1e-3:
                raise AssertionError(f"{rule}: {name} differs by {apart:.1e}")


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.online",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--braintrace", metavar="PYTHON")
    parser.add_argument("--units", type=int, default=32)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--serve", choices=PEERS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        serve(options.serve)
        return 0
    serving = ["-W", "ignore", "-m", "benchmarks.online", "--serve"]
    pythons = {"rnnjax": [sys.executable, *serving]}
    if options.braintrace:
        pythons["braintrace"] = [options.braintrace, *serving]
    with contextlib.ExitStack() as stack:
        peers = {
            peer: stack.enter_context(
                processes.running([*python, peer], processes.environment(1))
            )
            for peer, python in pythons.items()
        }
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        about = machine.describe()
        print(f"{about['processor']}, one thread, {INPUTS} inputs, ", end="")
        print(f"{options.units} units, {options.steps} steps, float32")
        for peer, process in peers.items():
            versions = processes.greeting(process)
            print(f"{peer}:", *(f"{k} {v}" for k, v in versions.items()))
        print("\n| cell | rule |", " | ".join(peers), "|")
        print("|---|---|" + "---:|" * len(peers))
        size = {"units": options.units, "steps": options.steps}
        for cell, rule in CASES:
            files = {peer: folder / f"{peer}.npz" for peer in peers}
            for peer, process in peers.items():
                where = str(files[peer])
                processes.ask(process, cell=cell, rule=rule, to=where, **size)
            if len(files) == 2:
                check(files["rnnjax"], files["braintrace"], rule)
            times = {peer: [] for peer in peers}
            for _ in range(options.rounds):
                for peer, process in peers.items():
                    seconds = processes.ask(process)
                    times[peer].append(seconds / options.steps * 1e6)
            medians = [f"{statistics.median(t):.1f}" for t in times.values()]
            print(f"| {cell} | {rule} |", " | ".join(medians), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
