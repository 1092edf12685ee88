"""What the programs beside this file share: options, refusals, runs and Ctrl-C."""

import argparse
import contextlib
import functools
import importlib.util
import io
import math
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import interrupt

from rnnjax import training


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser that prints the description as it stands."""
    return argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )


def add_run(
    parser: argparse.ArgumentParser, out: str, *, plot: str, quick: str
) -> None:
    """Add the options of a run that trains and writes to a folder."""
    add = parser.add_argument
    add("--seed", type=seed, default=0)
    add("--out", type=Path, default=Path(out), help=f"folder to write to ({out})")
    held = parser.add_mutually_exclusive_group()
    held.add_argument(
        "--resume", action="store_true", help="go on with the run that --out holds"
    )
    held.add_argument(
        "--overwrite", action="store_true", help="replace the run that --out holds"
    )
    add("--plot", action="store_true", help=plot)
    add("--quick", action="store_true", help=quick)


# Types of arguments; argparse puts their names into its message.


def positive(text: str) -> int:
    """An integer above zero."""
    if int(text) < 1:
        raise ValueError
    return int(text)


def seed(text: str) -> int:
    """An integer that both JAX and NumPy take as a seed."""
    if not 0 <= int(text) < 2**32:
        raise ValueError
    return int(text)


def nonnegative(text: str) -> float:
    """A finite number, zero or above."""
    if not 0 <= float(text) < math.inf:
        raise ValueError
    return float(text)


def share(text: str) -> float:
    """A share that may be dropped: at least zero, less than one."""
    if not 0 <= float(text) < 1:
        raise ValueError
    return float(text)


# Refusals.


def refuse(why: Exception | str) -> NoReturn:
    """End the program with one line and status 2, as argparse does."""
    print(f"{interrupt.program()}: {why}", file=sys.stderr)
    sys.exit(2)


@contextlib.contextmanager
def refusals(*kinds: type[Exception]) -> Iterator[None]:
    """Turn these errors, whose message says what to do, into a refusal."""
    try:
        yield
    except kinds as error:
        refuse(error)


# A run in the folder --out, or several in folders of their names below it.


def check_out(options: argparse.Namespace, *names: str) -> None:
    """Refuse what would fail or be lost later, before any data are read."""
    runs = [options.out / name for name in names or ("",)]
    saved = [run for run in runs if (run / "checkpoint.npz").exists()]
    if options.resume and not saved:
        refuse(
            f"{options.out} holds no run to go on with; leave --resume out, or name "
            "the folder of an earlier run with --out"
        )
    if saved and not (options.resume or options.overwrite):
        refuse(
            f"{saved[0]} holds a run; add --resume to go on with it, --overwrite to "
            "replace it, or name another folder with --out"
        )
    check_folder(options.out)
    if options.plot:
        check_matplotlib()


def check_folder(out: Path) -> None:
    """Make the folder, and refuse one that cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        refuse(f"--out {out} cannot be written ({error.strerror}); name another folder")


def check_matplotlib() -> None:
    """Refuse to draw without it now, not after the training."""
    if importlib.util.find_spec("matplotlib") is None:
        refuse('pictures need matplotlib; write pip install "rnnjax[examples]"')


def begin(
    options: argparse.Namespace,
    state: training.TrainState,
    config: dict[str, Any],
    name: str = "",
) -> tuple[training.TrainState, list[dict[str, Any]]]:
    """The state and history to begin with: as new, or with ``--resume`` as saved."""
    folder = options.out / name
    if not (options.resume and (folder / "checkpoint.npz").exists()):
        return state, []
    with refusals(OSError, ValueError):
        state, history = training.resume(folder, state, config)
    print(f"going on with {folder} after epoch {len(history)}")
    return state, history


# The program.


def run(
    parse: Callable[[list[str] | None], argparse.Namespace],
    main: Callable[[argparse.Namespace], None],
) -> None:
    """Run a program on the arguments of the command line."""
    options = parse(None)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # Ctrl-C leaves no time to flush
    interrupt.ends(functools.partial(_stopped, getattr(options, "out", None)))
    try:
        main(options)
    except (OSError, FloatingPointError) as error:
        sys.exit(f"{interrupt.program()}: {error}")


def _stopped(out: Path | None) -> str:
    if out is None:
        return "stopped"
    if any(out.glob("checkpoint.npz")) or any(out.glob("*/checkpoint.npz")):
        return f"stopped; {out} has the last full epoch: add --resume to go on"
    return "stopped before anything was saved"
