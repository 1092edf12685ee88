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
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.interpreters import mlir

TARGETS = (
    *(
        f"rnnjax_{cell}_{direction}"
        for cell in ("lstm", "gru", "elman")
        for direction in ("forward", "forward_residuals", "backward")
    ),
    "rnnjax_weight_gradient",
)


class _Loaded(NamedTuple):
    library: ctypes.CDLL | None
    reason: str


def _installed_interface() -> tuple[int, int]:
    """Read the installed jaxlib's version of XLA's foreign function interface."""
    header = Path(jax.ffi.include_dir(), "xla", "ffi", "api", "c_api.h").read_text()
    major, minor = (
        re.search(rf"^#define XLA_FFI_API_{part}\s+(\d+)", header, re.MULTILINE)
        for part in ("MAJOR", "MINOR")
    )
    return (int(major[1]), int(minor[1])) if major and minor else (0, 0)


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
        compiled = (library.rnnjax_ffi_major(), library.rnnjax_ffi_minor())
    except (OSError, AttributeError) as error:
        return _Loaded(None, f"{path.name} could not be loaded: {error}")
    installed = _installed_interface()
    if compiled[0] != installed[0] or compiled[1] > installed[1]:
        return _Loaded(
            None,
            f"compiled for XLA's interface {compiled[0]}.{compiled[1]}, and the "
            f"installed jaxlib has {installed[0]}.{installed[1]}; run "
            "`python -m rnnjax.kernels.compile`",
        )
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
    """Name the instruction set in use, or say why there is none.

    Example:
      >>> from rnnjax.kernels import native
      >>> native.reason() in ("avx512", "avx2", "portable") or not native.available()
      True

    """
    return _load().reason


@functools.cache
def register() -> None:
    """Make the kernels known to XLA under the names in ``TARGETS``, once.

    Raises:
      RuntimeError: the kernels are not available.

    """
    library, why = _load()
    if library is None:
        raise RuntimeError(f"the native kernels are not available: {why}")
    for target in TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")


def lowering(
    native_fun: Callable, reference_fun: Callable, multiple_results: bool = True
) -> mlir.LoweringRule:
    """Lower a primitive to the native function, or where that is missing to the other.

    Args:
      native_fun: calls targets of the library with `jax.ffi.ffi_call`.
      reference_fun: computes the same from operations of JAX.
      multiple_results: what both of them return, as of the primitive.

    Returns:
      A rule for `jax.interpreters.mlir.register_lowering` with ``platform="cpu"``.

    Example:
      >>> import jax.numpy as jnp
      >>> rule = lowering(jnp.sin, jnp.sin, multiple_results=False)

    """

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        found = available()
        if found:
            register()
        fun = native_fun if found else reference_fun
        return mlir.lower_fun(fun, multiple_results=multiple_results)(
            ctx, *operands, **params
        )

    return rule
