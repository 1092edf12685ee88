"""Gradients on the way equal those through time, exactly or in the mean."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import rnnjax
from rnnjax import online
from rnnjax.online import generic
from rnnjax.online.stepping import Place

TIME = 6
MASK = jnp.array([1, 1, 0, 1, 0, 1]) == 1
RESET = jnp.array([0, 1, 1, 0, 0, 1]) == 1
SIGNALS = {
    "plain": {},
    "mask": {"mask": MASK},
    "mask and reset": {"mask": MASK, "reset": RESET},
}


def given(cell, x=None, time=TIME):
    """Params away from their first values, inputs, and weights of the outputs."""
    keys = jax.random.split(jax.random.key(0), 4)
    params = cell.init(keys[0])
    noise = jax.random.normal(keys[1], (1000,))
    params = jax.tree.map(lambda a: a + 0.3 * noise[: a.size].reshape(a.shape), params)
    x = jnp.ones(2) if x is None else x
    if jnp.issubdtype(x.dtype, jnp.integer):
        xs = jnp.arange(time) % 3
    else:
        xs = jax.random.normal(keys[2], (time, *x.shape))
    out = rnnjax.output_spec(cell, x)
    return params, xs, jax.random.normal(keys[3], (time, *out.shape))


def through_time(cell, params, xs, weights, **signals):
    def loss(params):
        _, ys = cell.unroll(params, cell.initial_carry(params), xs, **signals)
        return (ys * weights).sum()

    return jax.grad(loss)(params)


@functools.partial(jax.jit, static_argnums=(0, 1))
def on_the_way(cell, rule, params, xs, weights, key=None, **signals):
    """The sum of all steps' gradients."""
    learner = online.learner(cell, rule)
    first = jax.tree.map(lambda a: a[0], xs)

    def step(held, inputs):
        state, total = held
        x, dy, flags = inputs
        _, pull, state = learner.step(params, state, x, **flags)
        return (state, jax.tree.map(jnp.add, total, pull(dy))), None

    zero = jax.tree.map(jnp.zeros_like, params)
    start = learner.init(params, first, key=key), zero
    return jax.lax.scan(step, start, (xs, weights, signals))[0][1]


def close(found, expected, atol=1e-11):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=atol),
        found,
        expected,
    )


CELLS = {
    "elman": rnnjax.elman(2, 3),
    "gru": rnnjax.gru(2, 3),
    "gru-before": rnnjax.gru(2, 3, reset_after=False),
    "lstm": rnnjax.lstm(2, 3),
    "layer-norm": rnnjax.layer_norm_gru(2, 3),
    "learned": rnnjax.learned_carry(rnnjax.lstm(2, 3)),
    "deep": rnnjax.stack(
        rnnjax.embedding(3, 2), rnnjax.lstm(2, 3), rnnjax.gru(3, 2), rnnjax.dense(2, 2)
    ),
}
ALONE = {
    "indrnn": rnnjax.indrnn(2, 3),
    "indy-lstm": rnnjax.indy_lstm(2, 3),
    "indy-gru": rnnjax.indy_gru(2, 3),
    "min-gru": rnnjax.min_gru(2, 3),
    "min-lstm": rnnjax.min_lstm(2, 3),
    "sru": rnnjax.sru(2, 2),
    "read": rnnjax.stack(rnnjax.indrnn(2, 3), rnnjax.dense(3, 2)),
}


def problem(name, cell):
    return given(cell, jnp.array(2) if name == "deep" else None)


@pytest.mark.parametrize("name", CELLS)
def test_rtrl_is_exact(name):
    cell = CELLS[name]
    params, xs, weights = problem(name, cell)
    signals = SIGNALS["mask and reset"]
    found = on_the_way(cell, online.rtrl(), params, xs, weights, **signals)
    close(found, through_time(cell, params, xs, weights, **signals))


@pytest.mark.parametrize("name", ALONE)
def test_units_that_see_only_themselves_are_exact(name):
    cell = ALONE[name]
    params, xs, weights = given(cell)
    signals = SIGNALS["mask and reset"]
    found = on_the_way(cell, online.units(), params, xs, weights, **signals)
    close(found, through_time(cell, params, xs, weights, **signals))


@pytest.mark.parametrize("signals", SIGNALS.values(), ids=SIGNALS)
@pytest.mark.parametrize(
    "rule", [online.rtrl(), online.snap(3), online.tbptt(1, 20)], ids=repr
)
def test_rules_that_remember_all_are_exact_with_any_signals(rule, signals):
    cell = rnnjax.learned_carry(rnnjax.lstm(2, 3))
    if rule.name.startswith("snap"):
        cell = rnnjax.lstm(2, 3)
    params, xs, weights = given(cell)
    if "mask" in signals:
        xs = jnp.where(MASK[:, None], xs, jnp.nan)
    found = on_the_way(cell, rule, params, xs, weights, **signals)
    close(found, through_time(cell, params, xs, weights, **signals))


@pytest.mark.parametrize(("k1", "k2"), [(1, 1), (1, 3), (2, 2), (2, 5), (3, 4)])
def test_truncation_is_that_of_blocks(k1, k2):
    cell = rnnjax.learned_carry(rnnjax.gru(2, 3))
    params, xs, weights = given(cell, time=7)
    carries = [cell.initial_carry(params)]
    for x in xs:
        carries.append(cell.step(params, carries[-1], x)[0])
    expected = jax.tree.map(jnp.zeros_like, params)
    for end in range(k1, len(xs) + k1, k1):  # the last block may be cut short
        began = max(0, end - k2)
        losses = range(end - k1, min(end, len(xs)))

        def loss(params, began=began, losses=losses):
            carry = cell.initial_carry(params) if began == 0 else carries[began]
            total = 0.0
            for t in range(began, losses[-1] + 1):
                carry, y = cell.step(params, carry, xs[t])
                total += (y * weights[t]).sum() if t in losses else 0.0
            return total

        expected = jax.tree.map(jnp.add, expected, jax.grad(loss)(params))
    close(on_the_way(cell, online.tbptt(k1, k2), params, xs, weights), expected)


def sparse(cell, params, xs, weights, kept):
    """Real-time recurrent learning in NumPy, of whose influence a part is kept."""
    flat, unravel = ravel_pytree(params)
    carry = cell.initial_carry(params)
    state, back = ravel_pytree(carry)
    influence, total = np.zeros((state.size, flat.size)), np.zeros(flat.size)

    def run(flat, state, x):
        after, y = cell.step(unravel(flat), back(state), x)
        return ravel_pytree(after)[0], y

    for x, w in zip(xs, weights, strict=True):
        after, y = jax.tree.map(np.asarray, jax.jacobian(run, (0, 1))(flat, state, x))
        total += np.asarray(w) @ (y[0] + y[1] @ influence)
        influence = kept * (after[1] @ influence + after[0])
        state, _ = run(flat, state, x)
    return unravel(jnp.asarray(total))


def owners(hidden, inputs, gates, states):
    """For each state and number of w_ih, w_hh and b of a cell: whether one unit."""
    columns = np.tile(np.arange(hidden), gates)
    of_params = np.concatenate(
        [np.tile(columns, inputs), np.tile(columns, hidden), columns]
    )
    return np.tile(np.arange(hidden), states)[:, None] == of_params


@pytest.mark.parametrize(
    ("cell", "gates", "states"),
    [
        (rnnjax.lstm(2, 3), 4, 2),
        (rnnjax.elman(2, 3), 1, 1),
        (rnnjax.elman(2, 3, activation=jax.nn.relu), 1, 1),
    ],
)
def test_snap_1_keeps_what_stays_in_a_unit(cell, gates, states):
    params, xs, weights = given(cell)
    if gates == 1:  # a unit that is dead, if it is a ReLU
        params = params._replace(b=params.b.at[1].set(-50.0))
    expected = sparse(cell, params, xs, weights, owners(3, 2, gates, states))
    close(on_the_way(cell, online.snap(1), params, xs, weights), expected)


def ring(size):
    """Each unit reads itself and its neighbour."""

    def init(key):
        return jnp.ones((2, size))

    def step(params, h, z):
        h = jnp.tanh(params[0] * h + params[1] * jnp.roll(h, 1) + z)
        return h, h

    return rnnjax.recurrence(
        init, lambda params: jnp.zeros(size), lambda params, x: x, step
    )


@pytest.mark.parametrize("n", [1, 2, 3])
def test_snap_keeps_the_units_within_reach(n):
    cell = ring(5)
    params, xs, weights = given(cell, jnp.ones(5))
    away = (np.arange(5)[:, None] - np.arange(5)) % 5
    kept = np.tile(away < n, 2)
    expected = sparse(cell, params, xs, weights, kept)
    close(on_the_way(cell, online.snap(n), params, xs, weights), expected)


def test_e_prop_of_an_lstm_is_that_of_its_forget_gate():
    """In the symbols of Bellec et al. 2020: e = o tanh'(c) times the trace of c."""
    cell = rnnjax.lstm(2, 3)
    params, xs, weights = given(cell)
    carry = cell.initial_carry(params)
    shapes = {name: a.shape for name, a in params._asdict().items()}
    trace: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}
    total: dict[str, Any] = {name: np.zeros(shape) for name, shape in shapes.items()}

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    for x, w in zip(np.asarray(xs), np.asarray(weights), strict=True):
        c, h = map(np.asarray, carry)
        a = np.split(np.asarray(x @ params.w_ih + h @ params.w_hh + params.b), 4)
        i, f, g, o = sigmoid(a[0]), sigmoid(a[1]), np.tanh(a[2]), sigmoid(a[3])
        c_new = f * c + i * g
        to_c = np.concatenate(
            [g * i * (1 - i), c * f * (1 - f), i * (1 - g**2), np.zeros(3)]
        )
        to_h = w * o * (1 - np.tanh(c_new) ** 2)
        direct_o = np.zeros(12)
        direct_o[9:] = w * np.tanh(c_new) * o * (1 - o)
        for name, u in {"w_ih": x, "w_hh": h, "b": np.ones(1)}.items():
            shape = shapes[name]
            trace[name] = np.tile(f, 4) * trace[name] + np.outer(u, to_c).reshape(shape)
            total[name] += np.tile(to_h, 4) * trace[name]
            total[name] += np.outer(u, direct_o).reshape(shape)
        carry, _ = cell.step(params, carry, x)
    found = on_the_way(cell, online.e_prop(), params, xs, weights)
    close(found._asdict(), total)
    # The same with a read-out that does nothing, in the cell.
    read = rnnjax.stack(cell, rnnjax.dense(3, 3))
    both = params, rnnjax.DenseParams(jnp.eye(3), jnp.zeros(3))
    close(on_the_way(read, online.e_prop(), both, xs, weights)[0], found)


def test_e_prop_stops_at_convolutions_too():
    """One with a kernel of one place is the product of an LSTM."""
    cell, place = rnnjax.lstm(2, 3), rnnjax.conv_lstm((1, 2), 3, 1)
    params, xs, weights = given(cell)
    found = on_the_way(cell, online.e_prop(), params, xs, weights)
    kernels = rnnjax.ConvLSTMParams(params.w_ih[None], params.w_hh[None], params.b)
    there = xs[:, None], weights[:, None]
    same = on_the_way(place, online.e_prop(), kernels, *there)
    close((same.w_ih[0], same.w_hh[0], same.b), tuple(found))


def drawn(cell, rule, count):
    """The exact gradient and those of many keys, as vectors."""
    params, xs, weights = given(cell, time=4)
    exact = through_time(cell, params, xs, weights)
    keys = jax.random.split(jax.random.key(7), count)
    one = functools.partial(on_the_way, cell, rule, params, xs, weights)
    several = jax.vmap(lambda key: one(key=key))(keys)
    flat = [np.asarray(a).reshape(count, -1) for a in jax.tree.leaves(several)]
    expected = [np.asarray(a).reshape(-1) for a in jax.tree.leaves(exact)]
    return np.concatenate(expected), np.concatenate(flat, axis=1)


@pytest.mark.parametrize("rule", [online.uoro(), online.kf_rtrl()], ids=repr)
def test_the_mean_of_random_rules_is_exact(rule):
    """By z-scores: their square is 1 in the mean if nothing is biased."""
    cell = rnnjax.lstm(2, 3)
    exact, found = drawn(cell, rule, 4000)
    spread = found.std(0)
    noisy = spread > 1e-9
    close(found.mean(0)[~noisy], exact[~noisy])
    z = (found.mean(0) - exact)[noisy] / (spread[noisy] / np.sqrt(len(found)))
    assert np.abs(z).max() < 5
    assert 0.4 < np.square(z).mean() < 2.0
    # The error of a mean falls as the root of the count.
    errors = [
        np.linalg.norm(found[: len(found) // n].mean(0) - exact) for n in (1, 100)
    ]
    assert errors[0] < 0.3 * errors[1]


def test_kronecker_factors_have_less_noise_than_one_product():
    cell = rnnjax.gru(2, 3)
    (_, one), (_, factors) = (
        drawn(cell, rule, 500) for rule in (online.uoro(), online.kf_rtrl())
    )
    assert factors.var(0).sum() < 0.5 * one.var(0).sum()


def test_a_batch_is_a_vmap():
    cell = rnnjax.gru(2, 3)
    params, xs, weights = given(cell)
    learner = online.learner(cell, online.rtrl())
    state = jax.vmap(learner.init, (None, 0))(params, xs)
    y, pull, state = jax.vmap(learner.step, (None, 0, 0))(params, state, xs)
    grads = jax.vmap(lambda pull, dy: pull(dy))(pull, weights)
    assert (y.shape, grads.w_hh.shape) == ((6, 3), (6, 3, 9))
    _, alone, _ = learner.step(params, learner.init(params, xs[2]), xs[2])
    close(jax.tree.map(lambda a: a[2], grads), alone(weights[2]))


RULES = [
    online.rtrl(),
    online.snap(1),
    online.uoro(),
    online.kf_rtrl(),
    online.e_prop(),
    online.tbptt(2, 4),
]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_memory_does_not_grow_with_time(rule):
    cell = rnnjax.lstm(2, 3)
    learner = online.learner(cell, rule)
    params = cell.init(jax.random.key(0))
    key = jax.random.key(1) if rule.draws else None

    def total(params, time):
        """A sum of gradients of inputs that are made on the way."""

        def step(held, _):
            state, total, x = held
            y, pull, state = learner.step(params, state, x)
            return (state, jax.tree.map(jnp.add, total, pull(y)), jnp.cos(x)), None

        start = learner.init(params, jnp.ones(2), key=key)
        zero = jax.tree.map(jnp.zeros_like, params)
        held = (start, zero, jnp.ones(2))
        return jax.lax.scan(step, held, length=time)[0][1]

    def size(time):
        lowered = jax.jit(total, static_argnums=1).lower(params, time)
        memory = lowered.compile().memory_analysis()
        assert memory is not None
        return memory.temp_size_in_bytes

    assert size(50) == size(5000)


def test_what_a_step_connects_is_seen_whatever_the_values():
    """Of the states of an LSTM, and of ReLUs that are dead wherever one looks."""
    cell = rnnjax.lstm(2, 3)
    params = cell.init(jax.random.key(0))
    carry = cell.initial_carry(params)
    found = generic.facts(Place(cell, params, carry, jnp.zeros(2)))
    assert found.places.tolist() == [[0, 3], [1, 4], [2, 5]]
    assert found.reads.all()
    assert found.owners.w_hh[0].tolist() == [0, 1, 2] * 4
    deep = CELLS["deep"]
    params = deep.init(jax.random.key(0))
    place = Place(deep, params, deep.initial_carry(params), jnp.array(1))
    found = generic.facts(place)
    assert found.places.tolist() == [[0, 3], [1, 4], [2, 5], [6, -1], [7, -1]]
    assert (found.owners[1].w_hh == generic.MANY).all()
    assert (found.owners[3].w == generic.NONE).all()


def test_e_prop_refuses_units_that_see_others_without_a_product():
    cell = ring(4)
    learner = online.learner(cell, online.e_prop())
    with pytest.raises(ValueError, match=r"rule is e_prop\(\).* unit 0 reads unit 3"):
        learner.init(jnp.ones((2, 4)), jnp.ones(4))
