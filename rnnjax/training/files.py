"""Files that are replaced as a whole: a crash leaves the old one, or the new one."""

import contextlib
import glob
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def destination(path: Path) -> Path:
    """The file that is written for ``path``: at the end of all symbolic links.

    Raises:
      FileNotFoundError: if its folder does not exist.
      ValueError: if something is there that is not a regular file.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise ValueError(
            f"{path} is a folder; expected the path of a file. Write "
            f"{path}/checkpoint.npz."
        )
    if os.path.lexists(target) and not target.is_file():
        raise ValueError(
            f"{path} is a device, a pipe or a loop of links; expected a regular file, "
            "or none yet. Write another path."
        )
    if not target.parent.is_dir():
        raise FileNotFoundError(
            f"{target.parent} does not exist; expected the folder for {target.name}. "
            "Make it first, or write another path."
        )
    return target


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Any]:
    """A file that takes the place of ``path`` once it is complete and on the disk."""
    path = destination(path)
    # The process id keeps two runs with one folder from writing into one file.
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Delete what killed processes left beside ``path`` while they were writing it."""
    if os.name != "posix":
        return  # elsewhere signal 0 is not a question
    path = destination(path)
    for file in path.parent.glob(f"{glob.escape(path.name)}.*.tmp"):
        pid = file.name[len(path.name) + 1 : -len(".tmp")]
        if pid.isdecimal() and not _is_running(int(pid)):
            file.unlink(missing_ok=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True  # somebody else's
    return True
