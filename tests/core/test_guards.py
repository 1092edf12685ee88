# pyright: reportArgumentType=false
"""Params and carries of another form are refused; all that is right passes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import guards

CELLS = {
    "lstm": rnnjax.lstm(3, 4),
    "stack": rnnjax.stack(rnnjax.lstm(3, 4), rnnjax.dropout(0.1), rnnjax.dense(4, 2)),
    "bidirectional": rnnjax.bidirectional(rnnjax.gru(3, 4)),
    "learned_carry": rnnjax.learned_carry(rnnjax.gru(3, 4)),
    "drop_connect": rnnjax.drop_connect(rnnjax.gru(3, 4), 0.5),
    "highway": rnnjax.highway(rnnjax.gru(3, 3), 3),
    "without a name": dataclasses.replace(rnnjax.gru(3, 4), spec=None),
}
XS = jnp.ones((2, 5, 3))


def made(cell):
    return cell.init(jax.random.key(0))


def grown(params):
    """Every array one larger on every axis."""
    return jax.tree.map(lambda a: jnp.ones([n + 1 for n in a.shape], a.dtype), params)


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
def test_params_of_another_size_are_refused_everywhere(cell):
    wrong = grown(made(cell))
    carry = cell.initial_carry(made(cell))
    calls = [
        lambda: rnnjax.unroll(cell, wrong, XS),
        lambda: cell.unroll(wrong, carry, XS[0]),
        lambda: cell.step(wrong, carry, XS[0, 0]),
        lambda: cell.initial_carry(wrong),
        lambda: jax.jit(cell.unroll)(wrong, carry, XS[0]),
        lambda: jax.eval_shape(cell.unroll, wrong, carry, XS[0]),
        lambda: jax.grad(lambda p: cell.unroll(p, carry, XS[0])[1].sum())(wrong),
        lambda: jax.vmap(lambda x: cell.unroll(wrong, carry, x))(XS),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"^params.* was made for "):
            call()


@pytest.mark.parametrize("cell", CELLS.values(), ids=CELLS)
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_right_params_pass_in_any_floating_dtype_and_as_numpy_arrays(cell, dtype):
    params = jax.tree.map(lambda a: a.astype(dtype), made(cell))
    expected = rnnjax.unroll(cell, params, XS)[1]
    assert expected.dtype == dtype
    found = rnnjax.unroll(cell, jax.tree.map(np.asarray, params), XS)[1]
    assert bool((found == expected).all())


def test_an_ensemble_is_mapped_over():
    cell = CELLS["stack"]
    members = jax.vmap(cell.init)(jax.random.split(jax.random.key(0), 3))
    ys = jax.vmap(lambda params: rnnjax.unroll(cell, params, XS)[1])(members)
    assert ys.shape == (3, 2, 5, 2)
    with pytest.raises(ValueError, match=r"params\[0\].w_ih is .*jax.vmap\("):
        rnnjax.unroll(cell, members, XS)


def test_integers_keep_their_dtype_and_mixed_floats_are_those_of_init():
    def init(key):
        return {"w": jnp.ones(3, jnp.float32), "n": jnp.array(2, jnp.int32)} | {
            "tau": jnp.ones(3, jnp.float64)
        }

    def step(params, h, x):
        h = h + params["w"].astype(h.dtype) * params["n"].astype(h.dtype)
        return h, h

    cell = rnnjax.recurrence(
        init, lambda params: jnp.zeros(3), lambda params, x: x, step
    )
    params = made(cell)
    assert rnnjax.unroll(cell, params, XS)[1].shape == (2, 5, 3)
    with pytest.raises(ValueError, match=r"params\['n'\] is float64\[\]"):
        rnnjax.unroll(cell, params | {"n": jnp.array(2.0)}, XS)
    with pytest.raises(TypeError, match="one floating dtype"):
        rnnjax.unroll(cell, params | {"w": jnp.ones(3, jnp.bfloat16)}, XS)


def test_an_init_that_wants_a_real_key_breaks_nothing():
    def init(key):
        return np.asarray(jax.random.key_data(key), float)

    cell = rnnjax.recurrence(
        init, lambda w: jnp.zeros(2), lambda w, x: x, lambda w, h, x: (h + w, h)
    )
    assert guards.made(cell.init) is None
    assert cell.unroll(np.ones(2), jnp.zeros(2), XS[0])[1].shape == (5, 2)
    # Once it has been called, its form is known.
    made(cell)
    with pytest.raises(ValueError, match=r"params is .*\[3\]"):
        cell.unroll(np.ones(3), jnp.zeros(2), XS[0])


def test_init_is_traced_once_and_not_at_all_where_it_was_called():
    calls = []

    def init(key):
        calls.append(key)
        return jnp.ones(3)

    def cell():
        return rnnjax.recurrence(
            init, lambda w: jnp.zeros(3), lambda w, x: x, lambda w, h, x: (h + w, h)
        )

    called, loaded = cell(), cell()
    params = made(called)
    for _ in range(3):
        rnnjax.unroll(called, params, XS)
    assert len(calls) == 1
    for _ in range(3):
        rnnjax.unroll(loaded, params, XS)
    assert len(calls) == 2


def test_a_weak_number_takes_the_dtype_of_the_carry():
    cell = rnnjax.recurrence(
        lambda key: jnp.ones(()),
        lambda w: jnp.zeros(()),
        lambda w, x: x,
        lambda w, h, x: (0.5, h),
    )
    after, _ = cell.unroll(made(cell), jnp.zeros(()), jnp.ones(4))
    assert after == 0.5


def test_a_hand_written_cell_is_told_by_its_name():
    @rnnjax.constructor
    def by_hand():
        return rnnjax.Cell(
            lambda key: (),
            lambda params: jnp.zeros(3),
            lambda params, h, x: x,
            lambda params, h, xs, *, mask=None, reset=None, key=None: (h[:1], xs),
        )

    cell = by_hand()
    with pytest.raises(TypeError, match=r"step returned .*pair") as caught:
        cell.step((), jnp.zeros(3), XS[0, 0])
    assert caught.value.__notes__ == ["This was in by_hand()."]
    with pytest.raises(TypeError, match="unroll returned carry as"):
        cell.unroll((), jnp.zeros(3), XS[0])


def test_a_hand_written_cell_without_a_name_is_guarded_by_what_runs_it():
    cell = rnnjax.Cell(
        lambda key: (),
        lambda params: jnp.zeros(3),
        lambda params, h, x: (h[:1], x),
        lambda params, h, xs, *, mask=None, reset=None, key=None: (h[:1], xs),
    )
    with pytest.raises(TypeError, match=r"unroll returned carry as .*\[1\]"):
        rnnjax.unroll(cell, (), XS)
    with pytest.raises(TypeError, match=r"unroll returned carry as .*\[1\]"):
        rnnjax.unroll(cell, (), XS, carry=jnp.zeros((2, 3)))
    with pytest.raises(TypeError, match=r"step returned carry as .*\[1\]"):
        rnnjax.static_unroll(cell, (), jnp.zeros(3), XS[0])


def test_tensors_of_torch_get_a_sentence():
    torch = pytest.importorskip("torch")
    cell = rnnjax.lstm(3, 4)
    with pytest.raises(TypeError, match=r"xs is <torch.Tensor>; .*numpy.asarray"):
        rnnjax.unroll(cell, made(cell), torch.ones(2, 5, 3))
