"""The compiled CPU kernels: whether they are here, and their registration.

Importing this module loads nothing; the first question does, and it never fails: where
the kernels cannot run, `available` is false and `reason` says why. Two environment
variables are read then: ``RNNJAX_KERNELS=reference`` leaves the kernels out, and
``RNNJAX_ISA`` (``avx512``, ``avx2`` or ``portable``) chooses an instruction set in
place of the widest.
"""

import ctypes
import functools
import os
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.interpreters import mlir

from rnnjax.kernels import partitioning
from rnnjax.kernels.equations import CELLS

FORWARD = "rnnjax_forward"
BACKWARD = "rnnjax_backward"
WEIGHT_PRODUCT = "rnnjax_weight_product"
WEIGHT_GRADIENT = "rnnjax_weight_gradient"
CROSS_ENTROPY = "rnnjax_cross_entropy"
CROSS_ENTROPY_GRADIENT = "rnnjax_cross_entropy_gradient"
LINEAR = "rnnjax_linear"
LOOP = "rnnjax_loop"
REMADE_LOOP = "rnnjax_remade_loop"
LOOP_AHEAD = "rnnjax_loop_ahead"

_TARGETS = (
    *(FORWARD, BACKWARD, WEIGHT_PRODUCT, WEIGHT_GRADIENT),
    *(CROSS_ENTROPY, CROSS_ENTROPY_GRADIENT, LINEAR),
    *(LOOP, REMADE_LOOP, LOOP_AHEAD),
)

_AGAIN = "run `python -m rnnjax.kernels.compile`"


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
    # Imported here, or `python -m` would find the module imported already, and warn.
    from rnnjax.kernels import compile as build

    if os.environ.get("RNNJAX_KERNELS") == "reference":
        return _Loaded(None, "turned off by RNNJAX_KERNELS=reference")
    path = build.LIBRARY
    if not path.exists():
        return _Loaded(
            None,
            "not compiled, because there was no C++ compiler when rnnjax was "
            f"installed; {_AGAIN} once there is",
        )
    # The loader maps the file into memory, where a missing part kills the process.
    if not build.is_sealed(path):
        return _unusable(f"{path.name} is damaged or from an older build; {_AGAIN}")
    try:
        library = ctypes.CDLL(str(path))
        library.rnnjax_use.restype = ctypes.c_char_p
        library.rnnjax_use.argtypes = [ctypes.c_char_p]
        library.rnnjax_has.restype = ctypes.c_bool
        library.rnnjax_has.argtypes = [ctypes.c_char_p]
        library.rnnjax_operation.restype = ctypes.c_char_p
        library.rnnjax_operation.argtypes = [ctypes.c_int]
        for target in _TARGETS:
            getattr(library, target)
        compiled = (library.rnnjax_ffi_major(), library.rnnjax_ffi_minor())
    except (OSError, AttributeError) as error:
        return _unusable(f"{path.name} could not be loaded: {error}; {_AGAIN}")
    installed = _installed_interface()
    if compiled[0] != installed[0] or compiled[1] > installed[1]:
        return _unusable(
            f"compiled for XLA's interface {compiled[0]}.{compiled[1]}, and the "
            f"installed jaxlib has {installed[0]}.{installed[1]}; {_AGAIN}"
        )
    wanted = os.environ.get("RNNJAX_ISA")
    used = library.rnnjax_use(wanted.encode() if wanted else None)
    if used is None:
        return _Loaded(None, f"this machine or build has no RNNJAX_ISA={wanted}")
    lacking = [c.name for c in CELLS if not library.rnnjax_has(c.name.encode())]
    if lacking:
        return _unusable(f"{path.name} has no kernel of {lacking[0]}; {_AGAIN}")
    return _Loaded(library, used.decode())


def _unusable(reason: str) -> _Loaded:
    """A library that is there and was meant to be used: one warning says why not."""
    warnings.warn(
        f"rnnjax runs without its CPU kernels, more slowly: {reason}.",
        RuntimeWarning,
        stacklevel=3,
    )
    return _Loaded(None, reason)


def available() -> bool:
    """Whether the compiled kernels can run here.

    >>> from rnnjax.kernels import native
    >>> isinstance(native.available(), bool)
    True
    """
    return _load().library is not None


def reason() -> str:
    """The instruction set in use, or why there is none.

    >>> from rnnjax.kernels import native
    >>> native.reason() in ("avx512", "avx2", "portable") or not native.available()
    True
    """
    return _load().reason


@functools.cache
def operations() -> tuple[str, ...]:
    """The elementwise operations that the engine of any step knows, in its order.

    >>> from rnnjax.kernels import native
    >>> "tanh" in native.operations() or not native.available()
    True
    """
    library, _ = _load()
    if library is None:
        return ()
    names = iter(map(library.rnnjax_operation, range(1 << 16)))
    return tuple(name.decode() for name in iter(names.__next__, None))


@functools.cache
def register() -> None:
    """Make the kernels known to XLA under the names above, once.

    Raises:
      RuntimeError: the kernels are not available.

    >>> from rnnjax.kernels import native
    >>> native.register() if native.available() else None
    """
    library, why = _load()
    if library is None:
        raise RuntimeError(f"the native kernels are not available: {why}")
    for target in _TARGETS:
        capsule = jax.ffi.pycapsule(getattr(library, target))
        jax.ffi.register_ffi_target(target, capsule, platform="cpu")
        jax.ffi.register_ffi_target_as_batch_partitionable(target)


def lowering(
    native_fun: Callable,
    reference_fun: Callable,
    divided: mlir.LoweringRule,
    multiple_results: bool = True,
) -> mlir.LoweringRule:
    """Lower a primitive to the native function, or where that is missing to the other.

    On several devices ``divided`` says more to XLA, see `rnnjax.kernels.partitioning`;
    on one the program is the plain call.

    A program that `jax.export` makes gets the other, for it runs where no library of
    ours is loaded. JAX says so to each lowering rule: nothing has to be switched off
    around an export, other threads go on with their kernels, and no cached trace can be
    wrong.

    Args:
      native_fun: calls targets of the library with `jax.ffi.ffi_call`.
      reference_fun: computes the same from operations of JAX.
      divided: calls the same targets so that XLA can divide them over devices.
      multiple_results: what both of them return, as of the primitive.

    Returns:
      A rule for `jax.interpreters.mlir.register_lowering` with ``platform="cpu"``.

    >>> import jax.numpy as jnp
    >>> from jax.interpreters import mlir
    >>> from rnnjax.kernels import native
    >>> sine = mlir.lower_fun(jnp.sin, multiple_results=False)
    >>> rule = native.lowering(jnp.sin, jnp.sin, sine, multiple_results=False)
    """

    def rule(ctx: mlir.LoweringRuleContext, *operands: Any, **params: Any) -> Any:
        exporting = ctx.module_context.lowering_parameters.for_export
        found = available() and not exporting
        if found:
            register()
            if partitioning.devices(ctx) > 1:
                return divided(ctx, *operands, **params)
        fun = native_fun if found else reference_fun
        return mlir.lower_fun(fun, multiple_results=multiple_results)(
            ctx, *operands, **params
        )

    return rule
