"""The compiled CPU kernels: whether they are here, and their registration.

Importing this module loads nothing; the first question does. It never fails:
where the kernels cannot run, :func:`available` is false and :func:`reason`
says why. Two environment variables are read then: ``RNNJAX_KERNELS=reference``
leaves the kernels out, and ``RNNJAX_ISA`` (``avx512``, ``avx2`` or
``portable``) chooses an instruction set in place of the widest.
"""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path
from typing import NamedTuple

import jax

TARGETS = tuple(
    f"rnnjax_{cell}_{direction}"
    for cell in ("lstm", "gru", "elman")
    for direction in ("forward", "forward_residuals", "backward")
)


class _Loaded(NamedTuple):
    library: ctypes.CDLL | None
    reason: str


@functools.cache
def _load() -> _Loaded:
    if os.environ.get("RNNJAX_KERNELS") == "reference":
        return _Loaded(None, "turned off by RNNJAX_KERNELS=reference")
    path = Path(__file__).parent / "_native.so"
    if not path.exists():
        return _Loaded(
            None,
            "not compiled, because there was no C++ compiler when rnnjax was "
            "installed; run `python -m rnnjax.kernels.compile` once there is",
        )
    try:
        library = ctypes.CDLL(str(path))
        library.rnnjax_use.restype = ctypes.c_char_p
        library.rnnjax_use.argtypes = [ctypes.c_char_p]
        for target in TARGETS:
            getattr(library, target)
    except (OSError, AttributeError) as error:
        return _Loaded(None, f"{path.name} could not be loaded: {error}")
    wanted = os.environ.get("RNNJAX_ISA")
    used = library.rnnjax_use(wanted.encode() if wanted else None)
    if used is None:
        return _Loaded(None, f"this machine or build has no RNNJAX_ISA={wanted}")
    return _Loaded(library, used.decode())


def available() -> bool:
    """Whether the compiled kernels can run here.

    Example:
      >>> from rnnjax.kernels import native
      >>> isinstance(native.available(), bool)
      True
    """
    return _load().library is not None


def reason() -> str:
    """The instruction set in use, or why there is none.

    Example:
      >>> from rnnjax.kernels import native
      >>> native.reason() in ("avx512", "avx2", "portable") or not native.available()
      True
    """
    return _load().reason


@functools.cache
def register() -> None:
    """Makes the kernels known to XLA under the names in ``TARGETS``, once.

    Raises:
      RuntimeError: the kernels are not available.
    """
    library, why = _load()
    if library is None:
        raise RuntimeError(f"the native kernels are not available: {why}")
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")
