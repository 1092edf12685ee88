"""Wrappers without randomness: other ways in, around and out of a cell."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.cell import Carry, Cell, InitFn, Params, constructor
from rnnjax.combinators import stack


class HighwayParams(NamedTuple):
    """``cell``: the cell's; ``w: (i, o)``, ``b: (o,)`` of the gate.

    ``w_skip: (i, o)`` brings inputs to the size of outputs; ``None`` where both are
    equal.
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

        g_t &= \sigma(x_t W + b) \\
        y_t &= g_t \odot x_t + (1 - g_t) \odot cell(x_t)

    Where the sizes differ the input passes as :math:`x_t W_{skip}`. For the sum with a
    projected input instead of a gate write ``parallel(cell, dense(i, o),
    merge=jnp.add)``.

    Args:
      cell: the cell.
      input_size: features of one input.
      output_size: features of one output; ``input_size`` if left out.
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
    checks.size("input_size", input_size)
    output_size = input_size if output_size is None else output_size
    checks.size("output_size", output_size)

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
        x = x if params.w_skip is None else x @ params.w_skip
        return gate * x + (1 - gate) * y

    def step(params, carry, x):
        x = checks.step_input(x, (input_size,), params.w.dtype)
        carry, y = cell.step(params.cell, carry, x)
        return carry, choose(params, x, y)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        xs, time = checks.sequence(xs, (input_size,), params.w.dtype)
        given, _ = checks.signals(mask, None, time, None)
        xs = xs if given is None else scan.zero_padding(xs, given)
        carry, ys = cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)
        return carry, choose(params, xs, ys)

    return Cell(init, initial_carry, step, unroll)


@constructor
def skip_stack(*cells: Cell) -> Cell:
    r"""A stack in which each cell sees the input and the output sees each cell.

    .. math::

        y^1_t = cell_1(x_t), \quad y^l_t = cell_l([x_t; y^{l-1}_t]), \quad
        y_t = [y^1_t; \dots; y^L_t]

    Each cell but the first takes as many more features as the one before it puts out.
    Params and carry are those of `stack`. It is Haiku's
    ``deep_rnn_with_skip_connections``.

    Reference: Graves 2013, Generating sequences with recurrent neural networks,
    arXiv:1308.0850.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.skip_stack(rnnjax.gru(3, 8), rnnjax.gru(3 + 8, 4))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((7, 3)))
    >>> ys.shape, bool((ys[-1, 8:] == carry[1]).all())
    ((7, 12), True)
    """
    plain = stack(*cells)

    def through(apply, x):
        """Feed every cell and join what comes out, for one step or a sequence."""
        x, ys = jnp.asarray(x), []
        after = []
        for i in range(len(cells)):
            seen = jnp.concatenate([x.astype(ys[-1].dtype), ys[-1]], -1) if ys else x
            carry, y = apply(i, seen)
            after.append(carry)
            ys.append(y)
        return tuple(after), jnp.concatenate(ys, -1)

    def step(params, carry, x):
        return through(lambda i, x: cells[i].step(params[i], carry[i], x), x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry = checks.carry(carry, plain.initial_carry(params))
        if key is not None:
            checks.noise_key(key)
        keys = scan.split_key(key, len(cells))
        resets = scan.split_reset(reset, len(cells))

        def apply(i, xs):
            given = {"mask": mask, "reset": resets[i], "key": keys[i]}
            return cells[i].unroll(params[i], carry[i], xs, **given)

        return through(apply, xs)

    return Cell(plain.init, plain.initial_carry, step, unroll)


class InitialCarryParams(NamedTuple):
    """The params of the cell, and those from which its first carry is made."""

    cell: Params
    start: Params


@constructor
def with_initial_carry(
    cell: Cell, init: InitFn, start: Callable[[Params], Carry]
) -> Cell:
    """Sequences, and resets, start with a carry of one's own making.

    `learned_carry` is the case in which that carry is itself the parameter. A carry
    that differs between examples, for example one made from a context vector, is data:
    hand it in as ``carry=``, as below.

    Args:
      cell: the cell.
      init: ``(key) -> start_params``, params that are trained; ``lambda key: ()`` for a
        given carry.
      start: ``(start_params) -> carry``, of the structure and shapes of the cell's own;
        it is cast to its dtypes.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> def ones(start_params):
    ...     return rnnjax.LSTMCarry(c=jnp.ones(4), h=jnp.ones(4))
    >>> cell = rnnjax.with_initial_carry(rnnjax.lstm(3, 4), lambda key: (), ones)
    >>> params = cell.init(jax.random.key(0))
    >>> cell.initial_carry(params).h
    Array([1., 1., 1., 1.], dtype=float32)

    From a context vector for each example:

    >>> cell, to_carry = rnnjax.gru(3, 4), rnnjax.dense(6, 4)
    >>> params = {"cell": cell.init(jax.random.key(0)),
    ...           "start": to_carry.init(jax.random.key(1))}
    >>> contexts, xs = jnp.ones((2, 6)), jnp.ones((2, 7, 3))
    >>> h = jax.vmap(lambda v: jnp.tanh(to_carry.step(params["start"], (), v)[1]))(
    ...     contexts)
    >>> h, ys = rnnjax.unroll(cell, params["cell"], xs, carry=h)
    >>> ys.shape
    (2, 7, 4)
    """

    def init_both(key):
        key_cell, key_start = jax.random.split(checks.key(key))
        return InitialCarryParams(cell.init(key_cell), init(key_start))

    def initial_carry(params):
        made = start(params.start)
        expected = jax.eval_shape(cell.initial_carry, params.cell)
        if jax.tree.structure(made) == jax.tree.structure(expected):
            made = jax.tree.map(
                lambda a, e: jnp.asarray(a).astype(e.dtype), made, expected
            )
        return checks.carry(made, expected, name="what start returned")

    def step(params, carry, x):
        return cell.step(params.cell, carry, x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        _, reset = checks.signals(
            None, reset, checks.time_steps(xs), initial_carry(params)
        )
        return cell.unroll(params.cell, carry, xs, mask=mask, reset=reset, key=key)

    return Cell(init_both, initial_carry, step, unroll)
