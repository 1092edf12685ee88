"""Liquid networks: differential equations with the time since the last input."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn.initializers import glorot_uniform

from rnnjax import checks, scan
from rnnjax.builder import recurrence
from rnnjax.cell import Cell, constructor
from rnnjax.observation import observe


class CfCParams(NamedTuple):
    """``w_ih: (i, m)``, ``w_hh: (h, m)``, ``b: (m,)``, the first layer of the backbone.

    ``backbone``: pairs of ``(m, m)`` and ``(m,)``, one for each further layer.
    ``w_out: (m, 4h)``, ``b_out: (4h,)``, blocks f g a b.
    """

    w_ih: Array
    w_hh: Array
    b: Array
    backbone: tuple[tuple[Array, Array], ...]
    w_out: Array
    b_out: Array


@constructor
def cfc(
    input_size: int,
    hidden_size: int,
    *,
    backbone_size: int = 128,
    backbone_layers: int = 1,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Closed-form continuous-time network: a liquid network without a solver.

    .. math::

        m &= \varphi(x_t W_{ih} + h_{t-1} W_{hh} + b) \\
        (f, g, a, b) &= (\tanh, \tanh, id, id)(m W_{out} + b_{out}) \\
        s &= \sigma(a \, elapsed + b) \\
        h_t &= (1 - s) \odot f + s \odot g

    with :math:`\varphi(a) = 1.7159 \tanh(0.666 a)`.

    The input is a pair ``(x, elapsed)`` with ``x: (i,)`` and ``elapsed: ()`` the time
    since the input before; a sequence is ``(xs, elapsed)`` with ``elapsed: (t,)``, ones
    if it was sampled regularly. The carry is ``h: (h,)``, zero at first, and the output
    is ``h`` too. This is the ``"default"`` mode of the authors' package ncps, with
    further layers of :math:`\varphi` between m and the outputs as there. Its sigmoid
    has :math:`a \, elapsed + b`, the paper's :math:`-a \, elapsed`.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``h: (h,)``.
      backbone_size: units m of the layers that all outputs share.
      backbone_layers: how many of them, one or more.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Hasani et al. 2022, Closed-form continuous-time neural networks,
    doi:10.1038/s42256-022-00556-7, arXiv:2106.13898.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.cfc(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> xs, elapsed = jnp.ones((4, 3)), jnp.array([1.0, 0.5, 2.0, 1.0])
    >>> h, ys = cell.unroll(params, cell.initial_carry(params), (xs, elapsed))
    >>> h.shape, ys.shape
    ((5,), (4, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.size("backbone_size", backbone_size)
    checks.size("backbone_layers", backbone_layers)

    def init(key):
        draw = glorot_uniform()
        key_in, key_out, *keys = jax.random.split(checks.key(key), 1 + backbone_layers)
        w = draw(key_in, (input_size + hidden_size, backbone_size))
        zero = jnp.zeros(backbone_size)
        layers = tuple((draw(k, (backbone_size, backbone_size)), zero) for k in keys)
        heads = [
            draw(k, (backbone_size, hidden_size)) for k in jax.random.split(key_out, 4)
        ]
        return CfCParams(
            w_ih=w[:input_size],
            w_hh=w[input_size:],
            b=zero,
            backbone=layers,
            w_out=jnp.concatenate(heads, axis=1),
            b_out=jnp.zeros(4 * hidden_size),
        )

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.w_hh.dtype)

    def project(params, inputs):
        x, elapsed = _timed(inputs, input_size, params.w_ih.dtype)
        return x @ params.w_ih + params.b, elapsed

    def step(params, h, z):
        z, elapsed = z
        m = _lecun_tanh(z + h @ params.w_hh)
        for w, b in params.backbone:
            m = _lecun_tanh(m @ w + b)
        f, g, a, b = jnp.split(m @ params.w_out + params.b_out, 4)
        f, g, s = jnp.tanh(f), jnp.tanh(g), jax.nn.sigmoid(a * elapsed + b)
        h = (1 - s) * f + s * g
        observe(m=m, f=f, g=g, a=a, b=b, s=s, h=h)
        return h, h

    return recurrence(
        init, initial_carry, project, step, traversal=traversal, carry_dtype=carry_dtype
    )


def _lecun_tanh(a: Array) -> Array:
    """Scaled so that a variance of one stays one; LeCun et al. 1998."""
    return 1.7159 * jnp.tanh(0.666 * a)


def _timed(inputs, input_size, dtype):
    x, elapsed = checks.timed_input(inputs, input_size, dtype, name="elapsed")
    return x, elapsed.astype(dtype)


class Synapses(NamedTuple):
    """``weight``, ``middle``, ``slope``, ``reversal``: ``(from, h)`` each."""

    weight: Array
    middle: Array
    slope: Array
    reversal: Array


class LTCParams(NamedTuple):
    """Synapses from the inputs, ``(i, h)``, and from the units, ``(h, h)``.

    ``leak``, ``leak_reversal``, ``capacitance: (h,)``; ``scale_in``, ``b_in: (i,)`` and
    ``scale_out``, ``b_out: (h,)`` map inputs and outputs.
    """

    sensory: Synapses
    recurrent: Synapses
    leak: Array
    leak_reversal: Array
    capacitance: Array
    scale_in: Array
    b_in: Array
    scale_out: Array
    b_out: Array


@constructor
def ltc(
    input_size: int,
    hidden_size: int,
    *,
    solver_steps: int = 6,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""Liquid time-constant network: synapses whose conductance sets the time constant.

    .. math::

        C_k \dot v_k &= G_k (E_k - v_k)
            + \sum_j w_{jk}\, \sigma(s_{jk} (u_j - m_{jk})) (e_{jk} - v_k) \\
        v_k &\leftarrow \frac{C_k v_k + \delta (G_k E_k
            + \sum_j w_{jk}\, \sigma(s_{jk} (u_j - m_{jk}))\, e_{jk})}
            {C_k + \delta (G_k + \sum_j w_{jk}\, \sigma(s_{jk} (u_j - m_{jk})))} \\
        y_t &= scale\_out \odot v + b\_out

    where :math:`\delta = elapsed / solver\_steps` and j runs over the inputs (u =
    scale_in x + b_in) and the units (u = v): w, m, s, e are weight, middle, slope and
    reversal of a synapse, G, E, C leak, leak_reversal and capacitance of a unit; w, G
    and C enter through a softplus. The second line, the paper's fused solver, is done
    ``solver_steps`` times for each input and keeps v between the reversal potentials.

    The input is a pair ``(x, elapsed)``, as in `cfc`. The carry is ``v: (h,)``, zero at
    first; the output is ``y: (h,)``. It is ``LTCCell`` of the authors'
    package ncps, fully wired, with ``implicit_param_constraints=True``; a synapse
    that is not there has a weight whose softplus is zero, say -100.

    Args:
      input_size: features of one input, ``x: (i,)``.
      hidden_size: units, ``v: (h,)``.
      solver_steps: how many steps the solver takes for each input.
      traversal: how time is walked, see `rnnjax.scan`.
      carry_dtype: of the carry, where it is not that of the params, see `recurrence`.

    Reference: Hasani, Lechner, Amini, Rus, Grosu 2021, Liquid time-constant networks,
    arXiv:2006.04439.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.ltc(3, 5)
    >>> params = cell.init(jax.random.key(0))
    >>> xs, elapsed = jnp.ones((4, 3)), jnp.array([1.0, 0.5, 2.0, 1.0])
    >>> v, ys = cell.unroll(params, cell.initial_carry(params), (xs, elapsed))
    >>> v.shape, ys.shape
    ((5,), (4, 5))
    """
    checks.size("input_size", input_size)
    checks.size("hidden_size", hidden_size)
    checks.size("solver_steps", solver_steps)

    def init(key):
        key_in, key_hh, *keys = jax.random.split(checks.key(key), 5)

        def between(key, low, high):
            return jax.random.uniform(key, (hidden_size,), minval=low, maxval=high)

        return LTCParams(
            sensory=_synapses(key_in, input_size, hidden_size),
            recurrent=_synapses(key_hh, hidden_size, hidden_size),
            leak=between(keys[0], 0.001, 1.0),
            leak_reversal=between(keys[1], -0.2, 0.2),
            capacitance=between(keys[2], 0.4, 0.6),
            scale_in=jnp.ones(input_size),
            b_in=jnp.zeros(input_size),
            scale_out=jnp.ones(hidden_size),
            b_out=jnp.zeros(hidden_size),
        )

    def initial_carry(params):
        return jnp.zeros(hidden_size, params.leak.dtype)

    def project(params, inputs):
        x, elapsed = _timed(inputs, input_size, params.leak.dtype)
        u = params.scale_in * x + params.b_in
        current, conductance = _conduct(params.sensory, u)
        leak = jax.nn.softplus(params.leak)
        return current + leak * params.leak_reversal, conductance + leak, elapsed

    def step(params, v, z):
        current_in, conductance_in, elapsed = z
        capacitance = jax.nn.softplus(params.capacitance)
        # Multiplied by dt, not divided: an elapsed time of zero is then no step at all.
        dt = elapsed / solver_steps
        for _ in range(solver_steps):
            current, conductance = _conduct(params.recurrent, v)
            pulled = capacitance * v + dt * (current + current_in)
            v = pulled / (capacitance + dt * (conductance + conductance_in))
        y = params.scale_out * v + params.b_out
        observe(v=v, y=y)
        return v, y

    return recurrence(
        init, initial_carry, project, step, traversal=traversal, carry_dtype=carry_dtype
    )


def _conduct(synapses: Synapses, u: Array) -> tuple[Array, Array]:
    """Current at a potential of zero, and conductance, into each unit."""
    openness = jax.nn.sigmoid(synapses.slope * (u[:, None] - synapses.middle))
    conductance = jax.nn.softplus(synapses.weight) * openness
    return (conductance * synapses.reversal).sum(0), conductance.sum(0)


def _synapses(key, inputs, hidden_size):
    keys = jax.random.split(key, 4)
    shape = (inputs, hidden_size)
    exciting = jax.random.bernoulli(keys[3], 2 / 3, shape)
    return Synapses(
        weight=jax.random.uniform(keys[0], shape, minval=0.001, maxval=1.0),
        middle=jax.random.uniform(keys[1], shape, minval=0.3, maxval=0.8),
        slope=jax.random.uniform(keys[2], shape, minval=3.0, maxval=8.0),
        reversal=jnp.where(exciting, 1.0, -1.0),
    )
