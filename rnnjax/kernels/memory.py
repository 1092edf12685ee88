"""What becomes of the memory of a call when it is over."""

import ctypes
import sys

# The names of glibc's malloc.h, and the largest numbers that it takes for them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = (1 << 31) - 1


def keep_memory() -> bool:
    """Have this process keep the memory that it has needed, for its next calls.

    glibc's ``malloc`` gives blocks of more than 32 MiB back to the system when they are
    freed. XLA frees what a call needed besides its results, so the next call takes it
    again, and the system clears it page by page. For a gradient on a CPU that is up to
    half of its time; ``docs/performance.md`` has figures.

    Call it once, before anything is computed. From then on the process holds the most
    that it ever needed at a time, and all threads take from one arena. It changes how
    memory is got, and nothing that is computed.

    Returns:
      Whether it was set: it is where the C library is glibc, as on most of Linux.

    >>> import rnnjax
    >>> rnnjax.kernels.keep_memory()  # doctest: +SKIP
    True
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    settings = (
        (_M_MMAP_THRESHOLD, _LARGEST),
        (_M_TRIM_THRESHOLD, _LARGEST),
        (_M_ARENA_MAX, 1),
    )
    return all(library.mallopt(name, value) for name, value in settings)
