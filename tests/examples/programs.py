"""Examples started as users start them, in this process and in others."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
# A child inherits an ignored interrupt, which is what pytest has in the background.
_RESTORED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


class Program(Protocol):
    """A module of examples that is a program."""

    @staticmethod
    def parse(arguments: list[str] | None = None) -> argparse.Namespace: ...

    @staticmethod
    def main(options: argparse.Namespace) -> None: ...


def command(name, *arguments):
    path = EXAMPLES / f"{name}.py"
    return [sys.executable, "-c", _RESTORED, str(path), *map(str, arguments)]


def run(name, *arguments, **variables):
    """The lines of an example, run by itself, which must not fail."""
    done = subprocess.run(
        command(name, *arguments),
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def main(program: Program, *arguments) -> None:
    """Run an example in this process."""
    program.main(program.parse(list(map(str, arguments))))


def refusal(program: Program, capsys, *arguments) -> str:
    """The one line with which an example refuses, and status 2."""
    with pytest.raises(SystemExit) as end:
        main(program, *arguments)
    assert end.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    return said


def number(pattern, lines):
    (found,) = re.findall(rf"{pattern} (\S+)", "\n".join(lines))
    return float(found)


def same_checkpoints(one, other):
    with np.load(one / "checkpoint.npz") as a, np.load(other / "checkpoint.npz") as b:
        names = [name for name in a if name != "rnnjax.json"]
        assert len(names) > 5
        for name in names:
            assert a[name].tobytes() == b[name].tobytes()
