"""A convolution over the last few inputs: it has a memory, and nothing recurs."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from rnnjax import checks, signals
from rnnjax.cell import Cell, Reset, constructor


class CausalConvParams(NamedTuple):
    """``w: (width, size)``, the oldest input first, and ``b: (size,)``."""

    w: Array
    b: Array


@constructor
def causal_conv(size: int, width: int = 4) -> Cell:
    r"""A convolution in time of each feature by itself, over the last inputs.

    .. math:: y_t = \textstyle\sum_{k < width} w_{width - 1 - k} \odot x_{t-k} + b

    The carry holds the last ``width - 1`` inputs, ``(width - 1, size)``, zero at first,
    so that a sequence in chunks is the sequence in one. ``unroll`` takes all steps at
    once, with masks and resets too: padding is passed over, not convolved with.

    Args:
      size: features of one input and of one output.
      width: inputs that an output reads, its own included, 2 or more.

    Raises:
      ValueError: for a ``width`` below 2.

    Reference: De et al. 2024, Griffin, arXiv:2402.19427, section 2.4; Gu, Dao 2023,
    Mamba, arXiv:2312.00752.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.causal_conv(3, width=4)
    >>> params = cell.init(jax.random.key(0))
    >>> window, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> window.shape, ys.shape
    ((3, 3), (7, 3))
    """
    checks.size("size", size)
    if checks.size("width", width) < 2:
        raise ValueError(
            f"width is {width}; expected 2 or more inputs. Write width=4, and "
            "rnnjax.time_distributed for a function of one input."
        )

    def init(key):
        draw = jax.nn.initializers.lecun_normal()
        w = draw(checks.key(key), (width, size))
        return CausalConvParams(w, jnp.zeros(size, w.dtype))

    def initial_carry(params):
        return jnp.zeros((width - 1, size), params.w.dtype)

    def step(params, carry, x):
        x = checks.step_input(x, (size,), params.w.dtype)
        carry = checks.carry(carry, jax.eval_shape(initial_carry, params))
        window = jnp.concatenate([carry, x[None]])
        return window[1:], (params.w * window).sum(0) + params.b

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, time = checks.sequence(xs, (size,), params.w.dtype)
        given = (initial_carry(params), carry, xs, mask, reset, key)
        carry, mask, reset = signals.read(*given)
        if mask is not None:
            xs = signals.zero_padding(xs, mask)
        windows, carry = _windows(carry, xs, mask, reset, width, time)
        ys = jnp.einsum("tks,ks->ts", windows, params.w) + params.b
        return carry, ys if mask is None else signals.zero_padding(ys, mask)

    return Cell(init, initial_carry, step, unroll)


def _windows(
    carry: Array,
    xs: Array,
    mask: Array | None,
    reset: Reset | None,
    width: int,
    time: int,
) -> tuple[Array, Any]:
    """For each step what it reads, ``(time, width, size)``, and the carry after all."""
    lags = jnp.arange(width)
    if mask is None and reset is None:
        line = jnp.concatenate([carry, xs])
        return line[jnp.arange(time)[:, None] + lags], line[time:]
    valid = jnp.ones(time, bool) if mask is None else mask
    # Inputs that count stand in one line without gaps; a step knows its place there.
    line = jnp.concatenate([carry, xs[jnp.argsort(~valid, stable=True)]])
    place = jnp.cumsum(valid)
    if reset is None:
        before = jnp.where(valid, place - 1, 0)
        return line[before[:, None] + lags], line[place[-1] + lags[:-1]]
    # Where a segment has not yet as many inputs, its first carry fills the window.
    begin = lax.cummax(jnp.where(valid & reset.where, place - 1, -1))

    def read(place, begin, lags):
        index = place[..., None] + lags
        inside = index - (width - 1) - begin[..., None]
        fresh = (begin[..., None] >= 0) & (inside < 0)
        first = reset.carry[jnp.clip(inside + width - 1, 0, width - 2)]
        return jnp.where(fresh[..., None], first, line[index])

    windows = read(jnp.where(valid, place - 1, 0), begin, lags)
    return windows, read(place[-1], begin[-1], lags[:-1])
