"""Ctrl-C ends a program of this folder with one line, from its first import on."""

import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path

STOPPED = 130  # what a shell reports for a program that Ctrl-C ended


def program() -> str:
    """The name of what runs."""
    return Path(sys.argv[0]).name


def ends(said: Callable[[], str]) -> None:
    """End at once with a line of what is said then, even while a compiled epoch runs.

    Python runs a handler in the main thread only, and so after the epoch, which may
    take minutes; but it writes a byte to a socket at once, which another thread can
    wait for. Checkpoints are written wholly or not at all, so any moment will do.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        return  # a program in the background is not to be stopped by Ctrl-C
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    first = threading.Lock()

    def end(*_) -> None:
        if first.acquire(blocking=False):
            begin = "\n" if sys.stderr.isatty() else ""  # a terminal has printed ^C
            line = f"{begin}{program()}: {said()}\n"
            os.write(sys.stderr.fileno(), line.encode())
            os._exit(STOPPED)

    def wait() -> None:
        with reading, writing:
            reading.recv(1)
        end()

    signal.set_wakeup_fd(writing.fileno())
    signal.signal(signal.SIGINT, end)
    threading.Thread(target=wait, daemon=True).start()


# JAX takes seconds to import. Programs elsewhere, such as pytest, are left alone.
if Path(sys.argv[0]).resolve().parent == Path(__file__).resolve().parent:
    ends(lambda: "stopped")
