"""Ways around a cell: the input added to its output, or chosen by a gate."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, signals
from rnnjax.cell import Cell, Params, constructor
from rnnjax.combinators import features
from rnnjax.observation import observe


@constructor
def residual(cell: Cell) -> Cell:
    """Add the input to the output: ``y + x``, of equal shapes.

    Of pairs with a time, see `passing_time`, the features are added.

    Reference: He et al. 2016, Deep residual learning, arXiv:1512.03385.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.residual(rnnjax.gru(3, 3))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, y = cell.step(params, cell.initial_carry(params), jnp.ones(3))
    >>> bool((y == carry + 1).all())
    True
    """
    checks.cell("cell", cell)
    features.around("residual", cell)

    def add(y, x):
        if isinstance(x, tuple) and isinstance(y, tuple):
            (x, _), (y, elapsed) = x, y
            return add(y, x), elapsed
        x = jnp.asarray(x)
        if x.shape != y.shape:
            raise ValueError(
                f"residual({cell}) got inputs of shape {x.shape} and outputs of shape "
                f"{y.shape}; expected equal shapes to add. Make the cell with as many "
                "units as input features, or put rnnjax.dense before it."
            )
        return y + x.astype(y.dtype)

    def step(params, carry, x):
        carry, y = cell.step(params, carry, x)
        return carry, add(y, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry, ys = cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)
        return carry, add(ys, xs if mask is None else signals.zero_padding(xs, mask))

    return Cell(cell.init, cell.initial_carry, step, unroll)


class HighwayParams(NamedTuple):
    """``cell``: the cell's; ``w: (i, o)``, ``b: (o,)`` of the gate.

    ``w_skip: (i, o)`` brings inputs to the size of outputs; it is ``None`` where the
    sizes are equal.
    """

    cell: Params
    w: Array
    b: Array
    w_skip: Array | None


@constructor
def highway(
    cell: Cell,
    input_size: int,
    output_size: int | None = None,
    *,
    carry_bias: float = 1.0,
) -> Cell:
    r"""Let a gate choose between the input and the output of a cell.

    .. math::

        gate_t &= \sigma(x_t W + b) \\
        y_t &= gate_t \odot x_t + (1 - gate_t) \odot cell(x_t)

    Where the sizes differ the input passes as :math:`x_t W_{skip}`. For the sum with a
    projected input instead of a gate write ``parallel(cell, dense(i, o),
    merge=jnp.add)``.

    Args:
      cell: the cell.
      input_size: features of one input.
      output_size: features of one output; by default ``input_size``.
      carry_bias: what ``b`` starts at; above zero it favours the input, as in
        TensorFlow's ``HighwayWrapper``, which also couples the two gates.

    Reference: Srivastava, Greff, Schmidhuber 2015, arXiv:1505.00387; with LSTM: Zhang
    et al. 2016, arXiv:1510.08983.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.highway(rnnjax.lstm(4, 4), 4)
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 4)))
    >>> ys.shape
    (7, 4)
    """
    checks.cell("cell", cell)
    checks.size("input_size", input_size)
    checks.number("carry_bias", carry_bias)
    output_size = input_size if output_size is None else output_size
    checks.size("output_size", output_size)
    features.between("highway", cell, input_size, output_size)

    def init(key):
        keys = jax.random.split(checks.key(key), 3)
        draw, shape = jax.nn.initializers.glorot_uniform(), (input_size, output_size)
        w = draw(keys[1], shape)
        b = jnp.full(output_size, carry_bias, w.dtype)
        w_skip = None if input_size == output_size else draw(keys[2], shape)
        return HighwayParams(cell.init(keys[0]), w, b, w_skip)

    def initial_carry(params):
        return cell.initial_carry(params.cell)

    def choose(params, x, y):
        if y.shape[-1] != output_size:
            raise ValueError(
                f"highway({cell}) got outputs of shape {y.shape[-1:]}; expected "
                f"({output_size},). Write output_size={y.shape[-1]}."
            )
        gate = jax.nn.sigmoid(x @ params.w + params.b)
        observe(gate=gate)
        x = x if params.w_skip is None else x @ params.w_skip
        return gate * x + (1 - gate) * y

    def step(params, carry, x):
        x = checks.step_input(x, (input_size,), params.w.dtype)
        carry, y = cell.step(params.cell, carry, x)
        return carry, choose(params, x, y)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, _ = checks.sequence(xs, (input_size,), params.w.dtype)
        start = initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        xs = xs if mask is None else signals.zero_padding(xs, mask)
        carry, ys = cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)
        return carry, choose(params, xs, ys)

    return Cell(init, initial_carry, step, unroll)
