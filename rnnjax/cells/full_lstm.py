"""Long short-term memory with all that was added to it over the years."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.cells.layer_norm import normalize
from rnnjax.cells.lstm import LSTMCarry
from rnnjax.initializers import recurrent_weights
from rnnjax.observation import observe


class FullLSTMNorm(NamedTuple):
    """``gain_ih``, ``gain_hh: (k,)`` of the gates, ``gain_c``, ``b_c: (h,)``.

    ``gain_hh`` is ``None`` where both products are normalised together.
    """

    gain_ih: Array
    gain_hh: Array | None
    gain_c: Array
    b_c: Array


class FullLSTMParams(NamedTuple):
    """``w_ih: (i, k)``, ``w_hh: (p, k)``, ``b: (k,)``: gates i f g o, f g o if coupled.

    ``peepholes: (3, h)``, rows i f o (``(2, h)``, f o if coupled), ``w_proj: (h, p)``
    and ``norm``; each is ``None`` where the cell has none.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    peepholes: Array | None
    w_proj: Array | None
    norm: FullLSTMNorm | None


@constructor
def full_lstm(
    input_size: int,
    hidden_size: int,
    *,
    peepholes: bool = False,
    coupled: bool = False,
    projection_size: int | None = None,
    cell_clip: float | None = None,
    projection_clip: float | None = None,
    layer_norm: Literal["gates", "products"] | None = None,
    forget_bias: float = 1.0,
    activation: Callable[[Array], Array] = jnp.tanh,
    epsilon: float = 1e-5,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""LSTM with peepholes, coupled gates, projection, clipping, layer normalisation.

    .. math::

        (\hat i, \hat f, \hat g, \hat o) &= x_t W_{ih} + h_{t-1} W_{hh} + b \\
        f &= \sigma(\hat f + p_f \odot c_{t-1}) \\
        i &= \sigma(\hat i + p_i \odot c_{t-1}),
            \text{ or } 1 - f \text{ if coupled} \\
        g &= \tanh(\hat g) \\
        c_t &= clip(f \odot c_{t-1} + i \odot g) \\
        o &= \sigma(\hat o + p_o \odot c_t) \\
        h_t &= clip((o \odot \tanh(c_t)) W_{proj})

    Combine them as you like; with none of them it is `lstm`. The carry is
    ``LSTMCarry(c, h)`` with ``c: (h,)`` and ``h: (p,)``, zero at first; the output is
    ``h``.

    Layer normalisation has two forms. ``"gates"``: each gate's
    :math:`LN(x_t W_{ih} + h_{t-1} W_{hh})` by itself, and :math:`LN` of the new c
    before it is clipped and carried, as in TensorFlow 1's ``LayerNormBasicLSTMCell``
    (``epsilon=1e-12``). ``"products"``: :math:`LN(x_t W_{ih}) + LN(h_{t-1} W_{hh})`
    over all gates at once, and :math:`\tanh(LN(c_t))` on the way out, with c itself
    carried as it is, as in the paper. Each LN has a gain, and b is added after it.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``c: (h,)``.
      peepholes: let i and f see the old memory and o the new, clipped one. The weights
        start at zero.
      coupled: take ``1 - f`` for the input gate, which then has no weights.
      projection_size: p, the size of ``h``; ``None`` for no projection and p = h.
      cell_clip: the largest magnitude of ``c``.
      projection_clip: the largest magnitude of the projected ``h``; it needs a
        projection.
      layer_norm: ``"gates"``, ``"products"`` or ``None``, see above.
      forget_bias: what the forget gate's part of ``b`` starts at; TensorFlow 1 adds it
        at every call instead, so weights from its ``LSTMCell`` need it added to ``b``,
        and their gates i j f o put in order.
      activation: in place of both tanh.
      epsilon: added to the variance of the layer normalisation.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Raises:
      ValueError: for sizes and clips that are not positive, a ``projection_clip``
        without a projection, an unknown ``layer_norm``.

    References: peepholes: Gers, Schraudolph, Schmidhuber 2002, Learning precise timing
    with LSTM recurrent networks; projection: Sak, Senior, Beaufays 2014,
    arXiv:1402.1128; coupled gates: Greff et al. 2015, arXiv:1503.04069; layer
    normalisation: Ba, Kiros, Hinton 2016, arXiv:1607.06450.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.full_lstm(3, 5, peepholes=True, projection_size=2, cell_clip=3.0)
    >>> params = cell.init(jax.random.key(0))
    >>> (c, h), ys = cell.unroll(params, cell.initial_carry(params), jnp.ones((10, 3)))
    >>> c.shape, h.shape, ys.shape
    ((5,), (2,), (10, 2))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.flag("peepholes", peepholes)
    checks.flag("coupled", coupled)
    checks.number("forget_bias", forget_bias)
    checks.activation(activation)
    checks.not_negative("epsilon", epsilon, example=1e-5)
    if projection_size is not None:
        checks.size("projection_size", projection_size)
    elif projection_clip is not None:
        raise ValueError(
            f"projection_clip is {projection_clip!r} without a projection; expected "
            f"both or neither. Write projection_size={hidden_size} beside it, or clip "
            "the memory by cell_clip."
        )
    for name, clip in (("cell_clip", cell_clip), ("projection_clip", projection_clip)):
        if clip is not None:
            checks.positive(name, clip, example=3.0)
    if layer_norm is not None:
        write = "'gates' for TensorFlow's form, 'products' for the paper's, or None"
        checks.choice("layer_norm", layer_norm, ("gates", "products"), write)
    gates = 3 if coupled else 4
    columns = gates * hidden_size
    output_size = hidden_size if projection_size is None else projection_size

    def init(key):
        key_gates, key_proj = jax.random.split(checks.key(key))
        w_ih, w_hh = recurrent_weights(
            key_gates, input_size, hidden_size, gates, recurrent_size=output_size
        )
        b = jnp.zeros((gates, hidden_size)).at[gates - 3].set(forget_bias).ravel()
        w_proj = norm = None
        if projection_size is not None:
            glorot = jax.nn.initializers.glorot_uniform()
            w_proj = glorot(key_proj, (hidden_size, projection_size))
        if layer_norm is not None:
            gain = jnp.ones(columns)
            norm = FullLSTMNorm(
                gain_ih=gain,
                gain_hh=gain if layer_norm == "products" else None,
                gain_c=jnp.ones(hidden_size),
                b_c=jnp.zeros(hidden_size),
            )
        peep = jnp.zeros((gates - 1, hidden_size)) if peepholes else None
        return FullLSTMParams(w_ih, w_hh, b, peep, w_proj, norm)

    def initial_carry(params):
        dtype = params.w_hh.dtype
        return LSTMCarry(jnp.zeros(hidden_size, dtype), jnp.zeros(output_size, dtype))

    def project(params, x):
        z = x @ params.w_ih
        if layer_norm == "gates":
            return z  # normalised with the recurrent product, bias after it
        if layer_norm == "products":
            z = params.norm.gain_ih * normalize(z, epsilon=epsilon)
        return z + params.b

    def gates_of(params, h, z):
        recurrent = h @ params.w_hh
        if layer_norm == "gates":
            each = (z + recurrent).reshape(gates, hidden_size)
            return (
                params.norm.gain_ih * normalize(each, epsilon=epsilon).ravel()
                + params.b
            )
        if layer_norm == "products":
            recurrent = params.norm.gain_hh * normalize(recurrent, epsilon=epsilon)
        return z + recurrent

    def normalized_memory(params, c):
        return params.norm.gain_c * normalize(c, epsilon=epsilon) + params.norm.b_c

    def step(params, carry, z):
        *i, f, g, o = jnp.split(gates_of(params, carry.h, z), gates)
        if peepholes:
            i = [gate + params.peepholes[0] * carry.c for gate in i]
            f = f + params.peepholes[-2] * carry.c
        f = jax.nn.sigmoid(f)
        i = 1 - f if coupled else jax.nn.sigmoid(i[0])
        g = activation(g)
        c = f * carry.c + i * g
        if layer_norm == "gates":
            c = normalized_memory(params, c)
        if cell_clip is not None:
            c = jnp.clip(c, -cell_clip, cell_clip)
        if peepholes:
            o = o + params.peepholes[-1] * c
        o = jax.nn.sigmoid(o)
        shown = normalized_memory(params, c) if layer_norm == "products" else c
        h = o * activation(shown)
        if projection_size is not None:
            h = h @ params.w_proj
        if projection_clip is not None:
            h = jnp.clip(h, -projection_clip, projection_clip)
        observe(i=i, f=f, g=g, o=o, c=c, h=h)
        return LSTMCarry(c, h), h

    return recurrence(
        init, initial_carry, project, step, (input_size,), traversal, carry_dtype
    )
