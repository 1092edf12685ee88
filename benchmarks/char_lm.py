"""Tokens per second of a language model: ``python -m benchmarks.char_lm --text FILE``.

It runs ``examples/char_lm.py`` and `benchmarks.char_lm_torch` by turns, with the same
text, network, updates and cores, each in a process of its own, and compares how many
characters they train on in a second. Scoring, samples and, of ours, compiling are not
in it; the time from start to exit, with all of them, stands beside it.
"""

import argparse
import re
import statistics
import sys
from pathlib import Path

from benchmarks import machine, processes

PROGRAMS = {
    "rnnjax": ["examples/char_lm.py"],
    "torch": ["-m", "benchmarks.char_lm_torch"],
}
SAME = ("characters", "layers", "hidden", "embedding", "dropout", "epochs")
SAME += ("batch_size", "chunk", "lr", "seed")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.char_lm",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    cores = len(machine.cores())
    add("--text", type=Path, help="default: the pages of the example")
    add("--characters", type=int, default=100_000, help="read at most this many")
    add("--layers", type=int, default=2)
    add("--hidden", type=int, default=512)
    add("--embedding", type=int, default=128)
    add("--dropout", type=float, default=0.4)
    add("--epochs", type=int, default=2)
    add("--batch-size", type=int, default=32)
    add("--chunk", type=int, default=64)
    add("--lr", type=float, default=6e-3)
    add("--seed", type=int, default=0)
    add("--threads", type=int, choices=range(1, cores + 1), default=cores)
    add("--rounds", type=int, default=2, help="how often each runs (default: 2)")
    options = parser.parse_args()
    # Children inherit the cores.
    machine.pin(options.threads)
    same = []
    for name in SAME:
        same += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    if options.text is not None:
        same += ["--text", str(options.text.resolve())]

    finals: dict[str, list[str]] = {name: [] for name in PROGRAMS}
    for turn in range(options.rounds):
        # Whoever comes first finds a cooler machine.
        order = list(PROGRAMS) if turn % 2 == 0 else list(PROGRAMS)[::-1]
        for name in order:
            try:
                _, last = processes.program([*PROGRAMS[name], *same], options.threads)
            except processes.Crashed as crash:
                print(crash, file=sys.stderr)
                return 1
            finals[name].append(last)
            print(f"{name}: {last}", flush=True)
    print(f"\n{machine.describe()['processor']}, {options.threads} threads\n")
    print(table(finals))
    return 0


def table(finals: dict[str, list[str]]) -> str:
    """Medians of what the last lines of both programs say."""

    def median(name, pattern):
        found = [re.search(rf"{pattern} (\S+)", line) for line in finals[name]]
        return statistics.median(float(number[1]) for number in found if number)

    lines = [
        "| program | tokens per second | bits per character | seconds in total |",
        "| --- | ---: | ---: | ---: |",
    ]
    rates = {name: median(name, "tokens_per_second") for name in finals}
    for name, rate in rates.items():
        bits, seconds = median(name, "bits_per_character"), median(name, "total")
        lines.append(f"| {name} | {rate:,.0f} | {bits:.3f} | {seconds:.1f} |")
    ratio = rates["rnnjax"] / rates["torch"]
    return "\n".join([*lines, "", f"our tokens per second over torch's: {ratio:.2f}"])


if __name__ == "__main__":
    sys.exit(main())
