"""Which layers fit on one multiprocessor of a GPU, for `rnnjax.kernels.pallas`.

A kernel keeps the recurrent weights where Pallas's Triton backend puts the factors of
its products, which is the memory that the threads of a block share.
"""

import itertools
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

from rnnjax.kernels.equations import Equations

KNOWN = {"A100": 163, "H100": 227, "H200": 227, "B200": 227}
"""KiB that one block may have on a GPU with this name."""

LEAST = 99
"""The same for every other one of NVIDIA's chips since Ampere."""

SCRATCH = 24
"""KiB that a kernel may need besides its weights, in which threads exchange the state.

``python -m benchmarks.resources`` prints what the compiler makes of that.
"""


def available() -> int:
    """KiB on the GPU that a program is lowered for.

    An abstract mesh says which one that is; otherwise it is the one that is there.
    """
    device = jax.sharding.get_abstract_mesh().abstract_device or jax.devices()[0]
    known = (size for name, size in KNOWN.items() if name in device.device_kind)
    return next(known, LEAST)


def padded(hidden_size: int) -> int:
    """How many units a kernel sees: a power of two, and 16 or more."""
    return max(16, pl.next_power_of_2(hidden_size))


def fits(
    cell: Equations, hidden_size: int, dtype: Any, within: int | None = None
) -> bool:
    """Whether one product is all of a step, and its weights stay on the chip.

    ``within`` are the KiB of a block, `available` if None.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, shared_memory
    >>> [
    ...     shared_memory.fits(equations.LSTM, h, jnp.float32, within=99)
    ...     for h in (64, 65)
    ... ]
    [True, False]
    """
    weights = cell.columns * padded(hidden_size) ** 2 * jnp.dtype(dtype).itemsize
    within = available() if within is None else within
    return not cell.gated and weights <= 1024 * (within - SCRATCH)


def most_units(cell: Equations, dtype: Any, within: int | None = None) -> int:
    """The most units that fit, of a cell with one product in a step.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import equations, shared_memory
    >>> shared_memory.most_units(equations.LSTM, jnp.bfloat16, within=227)
    128
    """
    sizes = (2**n for n in itertools.count(4))
    return max(itertools.takewhile(lambda h: fits(cell, h, dtype, within), sizes))
