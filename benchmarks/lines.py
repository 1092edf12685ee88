"""Processes that answer requests, a line of JSON for a line of JSON."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks import processes


@contextlib.contextmanager
def started(command: list[str], **surroundings: str) -> Iterator[subprocess.Popen[str]]:
    """A process, such as ``[python, "-m", module]``, that is ended afterwards."""
    with subprocess.Popen(
        command,
        text=True,
        env=processes.environment(1) | surroundings,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


def ask(process: subprocess.Popen[str], **request: Any) -> Any:
    """Send a request, wait for the answer."""
    assert process.stdin is not None
    process.stdin.write(json.dumps(request) + "\n")
    process.stdin.flush()
    return heard(process)


def heard(process: subprocess.Popen[str]) -> Any:
    """The next line that a process says.

    Raises:
      Crashed: it ended; what it wrote to stderr was shown.
    """
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise processes.Crashed("a process ended without an answer")
    return json.loads(line)


def answer(greeting: Any, reply: Callable[[dict[str, Any]], Any]) -> None:
    """In such a process: greet, and reply until nothing more is asked."""
    print(json.dumps(greeting), flush=True)
    for line in sys.stdin:
        print(json.dumps(reply(json.loads(line))), flush=True)
