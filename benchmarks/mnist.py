"""One whole training program in both libraries: ``python -m benchmarks.mnist``.

It runs ``examples/mnist.py --model lstm`` and `benchmarks.mnist_torch` by turns, with
the same data, sizes, schedule and cores, and compares the times from start to exit:
imports, reading, compiling, training, scoring and checkpoints included.
"""

import argparse
import re
import shlex
import statistics
import sys
import time
from pathlib import Path

from benchmarks import machine, processes, report

PROGRAMS = {
    "rnnjax": ["examples/mnist.py", "--model", "lstm"],
    "torch": ["-m", "benchmarks.mnist_torch"],
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mnist",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    cores = len(machine.cores())
    add("--hidden", type=int, default=128)
    add("--epochs", type=int, default=10)
    add("--batch-size", type=int, default=128)
    add("--lr", type=float, default=1e-2, help="peak of the cycle (default: 0.01)")
    add("--seed", type=int, default=0)
    add("--data-dir", type=Path, help="folder of the four idx files")
    add("--threads", type=int, choices=range(1, cores + 1), default=cores)
    add("--rounds", type=int, default=1, help="how often each runs (default: 1)")
    add(
        "--update-docs",
        action="store_true",
        help="write it into docs/performance.md and the README",
    )
    options = parser.parse_args()
    if options.update_docs and options.data_dir is None:
        parser.error("--update-docs is for MNIST's test digits; add --data-dir FOLDER")
    # Children inherit the cores.
    machine.pin(options.threads)
    same = []
    for name in ("hidden", "epochs", "batch_size", "lr", "seed"):
        same += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.data_dir is not None:
        same += ["--data-dir", str(options.data_dir.resolve())]

    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    finals: dict[str, str] = {}
    for _ in range(options.rounds):
        for name, program in PROGRAMS.items():
            try:
                taken, finals[name] = processes.program(
                    [*program, *same], options.threads
                )
            except processes.Crashed as crash:
                print(crash, file=sys.stderr)
                return 1
            seconds[name].append(taken)
            print(f"{name}: {taken:.1f} s, {finals[name]}", flush=True)

    text = _table(seconds, finals)
    print("\n" + text)
    if options.update_docs:
        arguments = [a for a in sys.argv[1:] if a != "--update-docs"]
        if options.data_dir is not None:
            arguments = _hide(arguments, str(options.data_dir))
        command = shlex.join(["python", "-m", "benchmarks.mnist", *arguments])
        about = machine.describe()
        place = f"{about['processor']}, {options.threads} threads"
        text = (
            f"```text\n{command}\n{place}, {time.strftime('%Y-%m-%d')}\n```\n\n{text}"
        )
        report.between(processes.ROOT / report.DOCS, "mnist", text)
        text = sentence(seconds, finals, command)
        report.between(processes.ROOT / report.README, "whole program", text)
    return 0


def _table(seconds: dict[str, list[float]], finals: dict[str, str]) -> str:
    lines = ["| program | seconds | accuracy |", "| --- | ---: | ---: |"]
    times = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in times.items():
        lines.append(f"| {name} | {value:.1f} | {_accuracy(finals[name])} |")
    ratio = times["torch"] / times["rnnjax"]
    return "\n".join([*lines, "", f"torch's time over ours: {ratio:.2f}"])


def sentence(
    seconds: dict[str, list[float]], finals: dict[str, str], command: str
) -> str:
    """What the README says of it."""
    ours, theirs = (
        f"takes {statistics.median(seconds[name]):.1f} s and reads "
        f"{100 * float(_accuracy(finals[name])):.2f} %"
        for name in PROGRAMS
    )
    return (
        f"From start to exit, `examples/mnist.py` {ours} of MNIST's test digits; the "
        f"same program in torch {theirs} (`{command}`)."
    )


def _accuracy(final: str) -> str:
    found = re.search(r"accuracy (\S+)", final)
    return found.group(1) if found else "-"


def _hide(arguments: list[str], folder: str) -> list[str]:
    """The arguments without the folder, which only this machine has."""
    return [argument.replace(folder, "FOLDER") for argument in arguments]


if __name__ == "__main__":
    sys.exit(main())
