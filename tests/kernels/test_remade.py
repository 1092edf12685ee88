"""What a loop reads may be made again: the same results, in less memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS

import rnnjax
from kernels.test_engine import assert_close, draw, on_both, pulled_back
from rnnjax import scan, signals
from rnnjax.kernels import flat, native, native_loop, remade

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        not native.available(), reason=f"no native kernels: {native.reason()}"
    ),
]

MATRICES = {
    "mlstm": functools.partial(rnnjax.mlstm, heads=1),
    "gated_linear_attention": functools.partial(rnnjax.gated_linear_attention, heads=1),
    "delta_net": functools.partial(rnnjax.delta_net, heads=1),
    "gated_delta_net": functools.partial(rnnjax.gated_delta_net, heads=1),
    "s4d": lambda inputs, units, **given: rnnjax.s4d(units, 64, **given),
}


@pytest.fixture
def all_again(monkeypatch):
    """Have even the smallest values made again, whatever the step."""
    monkeypatch.setattr(remade, "LARGE", 1)
    monkeypatch.setattr(remade, "_is_affine", lambda *_: True)


def same_cell(name, reverse=False, units=64):
    walks = scan.default, scan.by_scan
    if reverse:
        walks = map(signals.backwards, walks)
    return [MATRICES[name](units, units, traversal=walk) for walk in walks]


def gradient(cell):
    def loss(params, xs):
        def one(xs):
            carry = cell.initial_carry(params)
            return cell.unroll(params, carry, xs)[1]

        return jnp.sin(jax.vmap(one)(xs)).sum()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


FLOATING = [(c, x) for c, x in CELLS if not str(c).startswith("clockwork")]


@pytest.mark.drawn(0.1)
@pytest.mark.parametrize(("cell", "x"), FLOATING, ids=lambda v: repr(v)[:60])
def test_every_cell_with_all_values_made_again(cell, x, all_again):
    """Ragged, with resets, in few rows and in many."""
    params = cell.init(jax.random.key(0))
    xs = jax.tree.map(lambda a: draw(1, (3, 4, *a.shape)), x)
    given = cell.step, params, cell.initial_carry(params)
    for repeats in (1, 2):
        more = jax.tree.map(lambda a, n=repeats: jnp.concatenate([a] * n), xs)
        ours = pulled_back(given[0], scan.default, *given[1:], more)[0]
        assert_close(ours, pulled_back(given[0], scan.fused, *given[1:], more)[0])


def test_one_call_is_the_way_back(all_again):
    cell = rnnjax.gru(16, 64)
    params, xs = cell.init(jax.random.key(0)), draw(1, (6, 4, 16))
    given = cell.step, scan.default, params, cell.initial_carry(params), xs
    _, text = pulled_back(*given)
    assert text.count("@rnnjax_loop") == text.count("@rnnjax_remade_loop") == 1


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("name", MATRICES)
def test_matrices_of_many_steps_are_made_again_in_parts(name, reverse):
    """Parts of 32 steps for one row, and of 9 for sixteen, the last one of fewer."""
    ours, theirs = (gradient(cell) for cell in same_cell(name, reverse))
    params = same_cell(name)[0].init(jax.random.key(0))
    for rows in (1, 16):
        xs = draw(1, (rows, 70, 64)) / 8
        assert "@rnnjax_remade_loop" in ours.lower(params, xs).as_text()
        assert_close(ours(params, xs), theirs(params, xs))


def test_a_gradient_takes_no_memory_for_matrices_of_all_steps():
    cell, _ = same_cell("mlstm")
    xs = jax.ShapeDtypeStruct((8, 512, 64), jnp.float32)
    params = jax.eval_shape(cell.init, jax.random.key(0))
    compiled = gradient(cell).lower(params, xs).compile()
    memory = compiled.memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 8 * 512 * 64 * 64 * 4 / 2


def test_small_values_are_kept():
    cell = rnnjax.mgu(2, 64)
    params = cell.init(jax.random.key(0))
    given = cell.step, scan.default, params, cell.initial_carry(params)
    assert "@rnnjax_remade_loop" not in pulled_back(*given, draw(1, (3, 4, 2)))[1]


def test_it_keeps_the_laws(all_again):
    for make in (rnnjax.mgu, rnnjax.mlstm):
        rnnjax.testing.check_cell(make(3, 4, traversal=scan.default), jnp.ones(3))


@pytest.mark.parametrize("make", [rnnjax.mgu, rnnjax.delta_net])
def test_derivatives_of_every_order_and_ensembles(make, all_again):
    cell, other = (make(2, 4, traversal=walk) for walk in (scan.default, scan.fused))
    params, xs = cell.init(jax.random.key(0)), draw(1, (4, 2))
    members = jax.vmap(cell.init)(jax.random.split(jax.random.key(1), 2))
    leaves, tree = jax.tree.flatten(params)
    many = draw(2, (3, 4, 2))

    def loss(cell, params, xs):
        return jnp.sin(cell.unroll(params, cell.initial_carry(params), xs)[1]).sum()

    def of_first(cell, leaf):
        return loss(cell, tree.unflatten([leaf, *leaves[1:]]), xs)

    def check(fun):
        assert_close(*(jax.jit(lambda c=c: fun(c))() for c in (cell, other)))

    check(lambda c: jax.jvp(lambda p: loss(c, p, xs), (params,), (params,)))
    check(lambda c: jax.hessian(functools.partial(of_first, c))(leaves[0]))
    check(lambda c: jax.jacrev(jax.grad(functools.partial(of_first, c)))(leaves[0]))
    check(lambda c: jax.vmap(jax.grad(lambda p: loss(c, p, xs)))(members))
    of_inputs = jax.grad(loss, 1), jax.grad(loss, 2)
    for fun in of_inputs:
        check(lambda c, fun=fun: jax.vmap(fun, (None, None, 0))(c, params, many))


def test_vectors_of_weights_of_its_own_for_each_member(all_again):
    """Only a bias is mapped: there the loops of the members are apart."""
    cell, other = (
        rnnjax.elman(2, 3, traversal=walk) for walk in (native_loop.walk, scan.fused)
    )
    params, xs = cell.init(jax.random.key(0)), draw(1, (4, 2))
    biases = draw(2, (3, *params.b.shape))

    def gradients(cell):
        def loss(b):
            given = params._replace(b=b)
            ys = cell.unroll(given, cell.initial_carry(given), xs)[1]
            return jnp.sin(ys).sum()

        return jax.jit(jax.vmap(jax.grad(loss)))(biases)

    assert_close(gradients(cell), gradients(other))


@jax.custom_jvp
def _twice(x):
    return 2.0 * x


@_twice.defjvp
def _twice_jvp(primals, tangents):
    return _twice(*primals), jnp.fft.fft(*tangents).real


def test_a_way_back_that_the_engine_lacks_is_walked_after_the_maker(all_again):
    """The derivative alone has an operation that it does not know."""

    def step(params, carry, x):
        carry = _twice(params * carry + x)
        return carry, carry * carry

    # Those of the value and of the maker.
    on_both(step, draw(0, (3,)), draw(1, (3,)), draw(2, (3, 4, 3)), native_loops=2)


def test_a_maker_knows_products_and_takes_what_carries_it_needs(all_again):
    def step(w, c, h, x):
        u = h @ w
        return [c * 0.5 + u + x, jnp.tanh(u), c]

    avals = [jnp.ones((2, 2)), jnp.ones(2), jnp.ones(2), jnp.ones(2)]
    jaxpr, _ = flat.trace(step, avals)
    w, c, h, x = jaxpr.invars
    carries = {c: jaxpr.outvars[0], h: jaxpr.outvars[1]}
    making = remade.making(jaxpr, [c], [w], carries, [x])
    assert making.carry == [c]  # and not h, which only the product reads
    assert [v.aval.shape for v in making.known] == [(2,), (2,)]
    assert all(eqn.primitive.name != "dot_general" for eqn in making.step.eqns)
    weights, *vectors = avals
    out = flat.as_fun(making.step)(weights, *vectors)
    np.testing.assert_array_equal(out[0], np.full(2, 2.5, np.float32))


def test_what_is_nonlinear_in_the_carry_is_kept():
    """Rounded otherwise, a chaotic one would end up anywhere."""
    jaxpr, _ = flat.trace(lambda h, x: 4 * h * (1 - h) + x, [jnp.ones(5000)] * 2)
    h, x = jaxpr.invars
    making = remade.making(jaxpr, [h], [], {h: jaxpr.outvars[0]}, [x])
    assert making.values == []
