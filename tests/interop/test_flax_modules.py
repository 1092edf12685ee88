"""Our cells in Flax's own layers and training loops, and linen's cells in ours."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import rnnjax

pytest.importorskip("flax")
import flax.linen as nn
from flax import nnx

import rnnjax.flax as in_flax
from rnnjax.flax import modules

pytestmark = pytest.mark.float32

LENGTHS: Any = np.array([5, 2, 4])
XS: Any = np.random.default_rng(0).normal(size=(3, 5, 2)).astype(np.float32)
VALID = (np.arange(5) < LENGTHS[:, None])[..., None]
CELLS = {
    "lstm": rnnjax.lstm(2, 3),
    "stack": rnnjax.stack(rnnjax.gru(2, 4), rnnjax.dense(4, 3)),
    "learned carry": rnnjax.learned_carry(rnnjax.elman(2, 3)),
}


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


def all_close(found, expected):
    jax.tree.map(close, found, expected)


def moved(tree):
    """Away from zeros, where a learned carry would not show."""
    rng = np.random.default_rng(1)
    return jax.tree.map(
        lambda a: a + rng.normal(size=a.shape).astype(a.dtype) * 0.3, tree
    )


@pytest.mark.parametrize("name", CELLS)
def test_linen_rnn_equals_unroll(name):
    cell = CELLS[name]
    rnn: Any = nn.RNN(in_flax.LinenCell(cell))
    named = moved(rnn.init(jax.random.key(0), XS)["params"]["cell"])
    params = modules.unnamed(named, cell)
    assert jax.tree.structure(params) == jax.tree.structure(
        jax.eval_shape(cell.init, jax.random.key(0))
    )

    def theirs(named):
        variables = {"params": {"cell": named}}
        carry, ys = rnn.apply(variables, XS, seq_lengths=LENGTHS, return_carry=True)
        return (jnp.where(VALID, ys, 0) ** 2).sum(), (carry, jnp.where(VALID, ys, 0))

    def ours(named):
        params = modules.unnamed(named, cell)
        carry, ys = rnnjax.unroll(cell, params, XS, lengths=LENGTHS)
        return (ys**2).sum(), (carry, ys)

    expected = jax.jit(jax.value_and_grad(ours, has_aux=True))(named)
    found = jax.jit(jax.value_and_grad(theirs, has_aux=True))(named)
    all_close(found, expected)
    module: Any = in_flax.LinenCell(cell)
    by_unroll = functools.partial(
        module.apply, {"params": named}, XS, lengths=LENGTHS, method="unroll"
    )
    all_close(by_unroll(), expected[0][1])


@pytest.mark.parametrize("name", CELLS)
def test_nnx_rnn_equals_unroll(name):
    cell = CELLS[name]
    module: Any = in_flax.NnxCell(cell, rngs=nnx.Rngs(0))
    nnx.update(module, moved(nnx.state(module, nnx.Param)))
    rnn: Any = nnx.RNN(module)
    found = rnn(XS, seq_lengths=LENGTHS, return_carry=True)
    expected = rnnjax.unroll(cell, module.params, XS, lengths=LENGTHS)
    all_close((found[0], jnp.where(VALID, found[1], 0)), expected)
    all_close(module.unroll(XS, lengths=LENGTHS), expected)


def test_bidirectional_of_flax_is_ours():
    cell = rnnjax.gru(2, 3)
    rnn: Any = nn.Bidirectional(
        nn.RNN(in_flax.LinenCell(cell)), nn.RNN(in_flax.LinenCell(cell))
    )
    params = rnn.init(jax.random.key(0), XS)["params"]
    ys = rnn.apply({"params": params}, XS, seq_lengths=LENGTHS)
    both = rnnjax.bidirectional(cell)
    pair = tuple(
        modules.unnamed(params[name]["cell"], cell)
        for name in ("forward_rnn", "backward_rnn")
    )
    expected = rnnjax.unroll(both, pair, XS, lengths=LENGTHS)[1]
    close(jnp.where(VALID, ys, 0), expected)
    # A cell without a step is a module too, by its unroll.
    module: Any = in_flax.LinenCell(both)
    variables: Any = module.init(jax.random.key(0), XS, method="unroll")
    assert variables["params"]["1"]["w_hh"].shape == (3, 9)
    with pytest.raises(rnnjax.NoStepError):
        module.apply(variables, (jnp.zeros(3), jnp.zeros(3)), XS[0, 0])


def test_linen_training_loop():
    class Classifier(nn.Module):
        @nn.compact
        def __call__(self, xs):
            rnn: Any = nn.RNN(in_flax.LinenCell(rnnjax.lstm(2, 8)), name="rnn")
            ys = rnn(xs)
            return nn.Dense(1)(ys[:, -1])

    model: Any = Classifier()
    targets = jnp.array([[1.0], [-1.0], [0.5]])
    params = model.init(jax.random.key(0), XS)["params"]
    # Optax finds a param by its name, as flax names it.
    paths = jax.tree_util.tree_leaves_with_path(params)
    assert "b" in {jax.tree_util.keystr(p[-1:], simple=True) for p, _ in paths}
    optimizer = optax.adam(0.02)
    state = optimizer.init(params)

    def loss(params):
        return ((model.apply({"params": params}, XS) - targets) ** 2).mean()

    @jax.jit
    def train(params, state):
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(params, updates), state, value

    losses = []
    for _ in range(60):
        params, state, value = train(params, state)
        losses.append(float(value))
    assert losses[-1] < 0.05 * losses[0]


def test_nnx_training_loop():
    class Classifier(nnx.Module):
        def __init__(self, rngs):
            cell = in_flax.NnxCell(rnnjax.gru(2, 8), rngs=rngs)
            self.rnn: Any = nnx.RNN(cell)
            self.head = nnx.Linear(8, 1, rngs=rngs)

        def __call__(self, xs):
            return self.head(self.rnn(xs)[:, -1])

    model: Any = Classifier(nnx.Rngs(0))
    targets = jnp.array([[1.0], [-1.0], [0.5]])
    optimizer = nnx.Optimizer(model, optax.adam(0.02), wrt=nnx.Param)
    before = model.rnn.cell.params.w_hh

    @nnx.jit
    def train(model, optimizer):
        def loss(model):
            return ((model(XS) - targets) ** 2).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    losses = [float(train(model, optimizer)) for _ in range(60)]
    assert losses[-1] < 0.05 * losses[0]
    assert not np.allclose(before, model.rnn.cell.params.w_hh)


def test_dropout_draws_with_an_rng_stream_only():
    cell = rnnjax.with_dropout(rnnjax.gru(2, 3), outputs=0.5)
    rnn: Any = nn.RNN(
        in_flax.LinenCell(cell), split_rngs={"params": False, "dropout": True}
    )
    variables = rnn.init(jax.random.key(0), XS)
    calm = rnn.apply(variables, XS)
    noisy = rnn.apply(variables, XS, rngs={"dropout": jax.random.key(1)})
    close(calm, rnn.apply(variables, XS))
    dropped = np.asarray(noisy) == 0
    assert dropped.any()
    assert not dropped.all()
    close(np.asarray(noisy)[~dropped], 2 * np.asarray(calm)[~dropped])
    # Not the same ones in every example, nor at every step.
    assert len({row.tobytes() for row in dropped.reshape(-1, 3)}) > 1


ONES: Any = jnp.ones((3, 5, 4))


def nnx_cell(cell, **streams):
    return in_flax.NnxCell(cell, rngs=nnx.Rngs(**(streams or {"dropout": 1}), params=0))


@rnnjax.constructor
def hidden_noise(size):
    return rnnjax.stack(rnnjax.gru(size, size), rnnjax.dropout(0.5))


@rnnjax.constructor
def noisy(cell):
    return rnnjax.with_dropout(cell, outputs=0.5)


def drawn_by_hand():
    cell = rnnjax.dropout(0.5)
    return rnnjax.Cell(cell.init, cell.initial_carry, cell.step, lambda *a, **k: (
        cell.unroll(*a, **k)))  # fmt: skip


NOISY = {
    "outputs": rnnjax.with_dropout(rnnjax.gru(4, 4), outputs=0.5),
    "in a stack": rnnjax.stack(rnnjax.gru(4, 4), rnnjax.dropout(0.5)),
    "in a constructor of the user's": hidden_noise(4),
    "around a cell that is handed in": noisy(rnnjax.gru(4, 4)),
    "in a cell built by hand": drawn_by_hand(),
}


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("way", ["nnx.RNN", "unroll"])
def test_noise_acts_in_nnx_until_eval(name, way):
    module: Any = nnx_cell(NOISY[name])
    rnn: Any = nnx.RNN(module)
    run = rnn if way == "nnx.RNN" else lambda xs: module.unroll(xs)[1]
    first, second = np.asarray(run(ONES)), np.asarray(run(ONES))
    rnn.eval()
    calm = np.asarray(run(ONES))
    close(calm, run(ONES))
    close(calm, rnnjax.unroll(module.cell, module.params, ONES)[1])
    dropped = first == 0
    assert 0.25 < dropped.mean() < 0.75
    close(first[~dropped], 2 * calm[~dropped])
    # Afresh at every call, in every example, at every step.
    assert ((second == 0) != dropped).any()
    assert len({mask.tobytes() for mask in dropped}) == 3
    assert len({mask.tobytes() for mask in dropped[0]}) > 1
    rnn.train()
    assert (np.asarray(run(ONES)) == 0).any()


DRAWING = {
    "leaky": rnnjax.leaky_rnn(4, 4, noise=0.5),
    "Dale": rnnjax.dale_rnn(4, 4, noise=0.5),
    "low rank": rnnjax.low_rank_rnn(4, 4, rank=1, noise=0.5),
    "attention": rnnjax.attention(
        rnnjax.gru(8, 4), 4, 4, (6, 4), monotonic="soft", score_noise=1.0
    ),
    "in a stack": rnnjax.stack(rnnjax.leaky_rnn(4, 4, noise=0.5), rnnjax.gru(4, 4)),
    "of unknown inputs": rnnjax.stack(
        rnnjax.pointwise(jnp.tanh), rnnjax.leaky_rnn(4, 4, noise=0.5)
    ),
}


@pytest.mark.parametrize("name", DRAWING)
@pytest.mark.parametrize("way", ["nnx.RNN", "unroll"])
def test_noise_of_cells_that_draw_by_themselves_acts_until_eval(name, way):
    module: Any = nnx_cell(DRAWING[name])
    rnn: Any = nnx.RNN(module)

    def run():
        rnns = way == "nnx.RNN"
        done = rnn(ONES, return_carry=True) if rnns else module.unroll(ONES)
        return np.concatenate([np.ravel(a) for a in jax.tree.leaves(done)])

    assert np.abs(run() - run()).max() > 1e-3
    rnn.eval()
    close(run(), run())


def test_masks_of_a_sequence_stay_while_its_carry_is_handed_on():
    module: Any = nnx_cell(rnnjax.dropout(0.5, per="sequence"))
    rnn: Any = nnx.RNN(module)

    def masks(ys):
        assert (ys == ys[:, :1]).all()  # the same at every step
        return np.asarray(ys[:, 0] == 0)

    carry, ys = rnn(ONES, return_carry=True)
    first = masks(ys)
    assert 0 < first.mean() < 1
    assert len({mask.tobytes() for mask in first}) > 1
    assert (masks(rnn(ONES, initial_carry=carry)) == first).all()
    assert (masks(module.unroll(ONES, carry=carry)[1]) == first).all()
    assert (masks(rnn(ONES)) != first).any()
    again = masks(module.unroll(ONES)[1])
    assert (masks(rnn(ONES, initial_carry=carry)) == again).all()
    assert (masks(module.unroll(ONES)[1]) != again).any()


def test_dropped_weights_are_those_of_one_walk():
    """Stepped through by Flax or by us, from the same keys."""
    cell = rnnjax.drop_connect(rnnjax.gru(4, 4), 0.5)
    ours, theirs = nnx_cell(cell), nnx_cell(cell)
    rnn: Any = nnx.RNN(theirs)
    close(rnn(ONES), ours.unroll(ONES)[1])
    assert np.abs(rnn(ONES) - ours.unroll(ONES, key=jax.random.key(0))[1]).max() > 1e-3


def test_noise_moves_on_under_jit_and_grad():
    rnn: Any = nnx.RNN(nnx_cell(NOISY["outputs"]))

    @nnx.jit
    def run(rnn):
        return nnx.value_and_grad(lambda rnn: (rnn(ONES) ** 2).sum())(rnn)

    values = [float(run(rnn)[0]) for _ in range(3)]
    assert len(set(values)) == 3
    grads = jax.tree.leaves(run(rnn)[1])
    assert all(np.isfinite(grad).all() for grad in grads)
    assert any(np.any(grad) for grad in grads)


def test_which_stream_draws():
    cell = NOISY["outputs"]

    def acts(rngs):
        module: Any = in_flax.NnxCell(cell, rngs=rngs)
        return bool((module.unroll(ONES)[1] == 0).any())

    assert acts(nnx.Rngs(0, dropout=1))
    assert acts(nnx.Rngs(0))  # the default stream, as for nnx.Dropout
    assert not acts(nnx.Rngs(params=0))
    module: Any = nnx_cell(cell)
    key = jax.random.key(3)
    expected = rnnjax.unroll(cell, module.params, ONES, key=key)[1]
    close(module.unroll(ONES, key=key)[1], expected)
    calm = nnx.view(module, deterministic=True)
    assert not (calm.unroll(ONES)[1] == 0).any()


SILENT = CELLS | {
    "from linen": in_flax.from_linen_cell(nn.GRUCell(3), 2),
    "noise of zero": rnnjax.leaky_rnn(2, 3, noise=0.0),
}


@pytest.mark.parametrize("name", SILENT)
def test_a_cell_without_noise_holds_no_stream(name):
    """So that jax.jit may close over its module, which changes nothing."""
    module: Any = nnx_cell(SILENT[name], default=1)
    assert not jax.tree.leaves(nnx.state(module, nnx.RngState))
    assert jax.jit(lambda xs: module.unroll(xs)[1])(XS).shape == (3, 5, 3)


@pytest.mark.parametrize("kind", ["linen", "nnx"])
def test_masks_and_resets_of_unroll(kind):
    cell = rnnjax.gru(2, 3)
    mask, reset = jnp.asarray(VALID[..., 0]), jnp.zeros((3, 5), bool).at[1, 1].set(True)
    signals = {"mask": mask, "reset": reset}
    if kind == "nnx":
        module: Any = nnx_cell(cell)
        params, found = module.params, module.unroll(XS, **signals)
    else:
        linen: Any = in_flax.LinenCell(cell)
        variables = linen.init(jax.random.key(0), XS, method="unroll")
        found = linen.apply(variables, XS, method="unroll", **signals)
        params = modules.unnamed(variables["params"], cell)
    all_close(found, rnnjax.unroll(cell, params, XS, **signals))
    plain = rnnjax.unroll(cell, params, XS)[1]
    assert np.abs(found[1] - plain)[1, 1].max() > 1e-4


@pytest.mark.parametrize(
    "cell",
    [
        rnnjax.stack(rnnjax.gru(2, 3), rnnjax.dropout(0.5, per="sequence")),
        rnnjax.drop_connect(rnnjax.gru(2, 3), 0.5),
    ],
    ids=repr,
)
def test_linen_refuses_masks_that_a_step_cannot_keep(cell):
    splits: Any = {"params": False, "dropout": True}
    module: Any = in_flax.LinenCell(cell)
    rnn: Any = nn.RNN(module, split_rngs=splits)
    variables = rnn.init(jax.random.key(0), XS)
    rngs = {"dropout": jax.random.key(1)}
    with pytest.raises(ValueError, match="masks for a whole sequence") as caught:
        rnn.apply(variables, XS, rngs=rngs)
    assert "method='unroll'" in str(caught.value)
    own = {"params": variables["params"]["cell"]}
    noisy = module.apply(own, XS, rngs=rngs, method="unroll")[1]
    assert np.abs(noisy - rnn.apply(variables, XS)).max() > 1e-3


def test_the_carry_that_an_initializer_draws():
    counter = rnnjax.recurrence(
        lambda key: (),
        lambda params: jnp.zeros((), jnp.int32),
        lambda params, x: x,
        lambda params, n, x: (n + 1, x),
    )
    cell = rnnjax.stack(rnnjax.lstm(2, 3), counter)
    module: Any = nnx_cell(cell)
    draw = jax.nn.initializers.normal()
    rngs = nnx.Rngs(carry=0)
    carry = module.initialize_carry((7, 2), rngs, draw)
    expected = jax.tree.map(jnp.shape, module.initialize_carry((7, 2)))
    assert jax.tree.map(jnp.shape, carry) == expected
    for leaf in carry[0]:
        assert len(np.unique(leaf)) == leaf.size
    assert not carry[1].any()  # a counter counts from zero
    other = module.initialize_carry((7, 2), rngs.carry, draw)
    assert not np.allclose(carry[0].c, other[0].c)
    with pytest.raises(ValueError, match=r"Write rngs=nnx\.Rngs\(carry=0\)"):
        module.initialize_carry((7, 2), None, draw)


def test_the_carry_of_a_module_without_variables():
    plain = in_flax.LinenCell(rnnjax.lstm(2, 3))
    key = jax.random.key(0)
    for run in (lambda f: f(), lambda f: jax.jit(f)()):
        carry = run(lambda: plain.initialize_carry(key, (7, 2)))
        assert carry.c.shape == (7, 3)
        assert not carry.h.any()
    learned = in_flax.LinenCell(CELLS["learned carry"])
    with pytest.raises(ValueError, match="computed from the params"):
        learned.initialize_carry(jax.random.key(0), (7, 2))


@pytest.mark.parametrize(
    "module",
    [nn.OptimizedLSTMCell(3), nn.GRUCell(3), nn.MGUCell(3, reset_gate=False)],
    ids=lambda module: type(module).__name__,
)
def test_a_linen_cell_keeps_its_values(module):
    cell = in_flax.from_linen_cell(module, 2)
    assert cell == in_flax.from_linen_cell(module.clone(), 2)
    params = cell.init(jax.random.key(0))

    def ours(params):
        ys = rnnjax.unroll(cell, params, XS, lengths=LENGTHS)[1]
        return (ys**2).sum(), ys

    def theirs(params):
        variables = {"params": {"cell": params}}
        rnn: Any = nn.RNN(module)
        ys = rnn.apply(variables, XS, seq_lengths=LENGTHS)
        return (jnp.where(VALID, ys, 0) ** 2).sum(), jnp.where(VALID, ys, 0)

    found, expected = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (ours, theirs)
    )
    all_close(found, expected)
