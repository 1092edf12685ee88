"""With few rows, what waits for no step is made beside the loop: the same results."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from kernels.test_engine import assert_close, draw
from rnnjax import scan, signals
from rnnjax.kernels import apart, flat, loops, native

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        not native.available(), reason=f"no native kernels: {native.reason()}"
    ),
]


def gradient(cell):
    """Values and gradients of ``(params, xs)``."""

    def loss(params, xs):
        def one(xs):
            return cell.unroll(params, cell.initial_carry(params), xs)

        out = jax.vmap(one)(xs)
        return sum(jnp.sin(a).sum() for a in jax.tree.leaves(out)), out

    return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("rows", "time"), [(1, 1), (1, 200), (2, 64), (3, 129)])
@pytest.mark.parametrize(
    ("make", "inputs"),
    [
        (functools.partial(rnnjax.leaky_rnn, 5, 24), 5),
        (functools.partial(rnnjax.lstm, 24, 40), 24),
        (functools.partial(rnnjax.mgu, 33, 17), 33),
        (functools.partial(rnnjax.slstm, 16, 16), 16),
    ],
    ids=["leaky_rnn", "lstm", "mgu", "slstm"],
)
def test_results_are_those_of_the_scan(make, inputs, rows, time, reverse):
    """As many steps as are made at once, fewer and more."""
    walks = scan.default, scan.by_scan
    if reverse:
        walks = map(signals.backwards, walks)
    ours, reference = (gradient(make(traversal=walk)) for walk in walks)
    given = make().init(jax.random.key(0)), draw(0, (rows, time, inputs))
    ours = ours.lower(*given)
    assert "@rnnjax_loop_ahead" in ours.as_text()
    assert_close(ours.compile()(*given), reference(*given))


def test_whoever_makes_a_step_makes_the_same():
    """There is enough to do for threads that have no rows."""
    cell = rnnjax.lstm(64, 64, traversal=scan.default)
    params, xs = cell.init(jax.random.key(0)), draw(0, (2, 900, 64))
    run = gradient(cell)
    first = run(params, xs)
    for _ in range(20):
        again = run(params, xs)
        jax.tree.map(np.testing.assert_array_equal, again, first)


def test_inputs_that_are_read_beside_the_loop_are_not_written_over():
    def step(w, h, x):
        h = jnp.tanh(h + x @ w)
        return [h, h * x]

    examples = [jnp.zeros((8, 8)), jnp.zeros(8), jnp.zeros(8)]
    jaxpr, _ = flat.trace(step, examples)
    spent = (False, False, True)
    loop = loops.Loop(jaxpr, 1, 0, 1, length=500, reverse=False, spent=spent)
    operands = draw(0, (8, 8)) / 4, draw(1, (1, 8)), draw(2, (1, 500, 8))
    bound = jax.jit(functools.partial(loops.bound, loop=loop))
    assert "@rnnjax_loop_ahead" in bound.lower(*operands).as_text()
    assert_close(bound(*operands), loops.reference(*operands, loop=loop))


def test_a_product_that_is_only_compared():
    def step(w, h, x):
        h = jnp.where(x @ w > 0, h + 1, h / 2)
        return h, h

    def walked(walk, w, h, xs):
        return walk(lambda w, x: x, step, w, h, xs)

    given = draw(0, (8, 8)), draw(1, 8), draw(2, (70, 8))
    ours, theirs = (
        jax.jit(functools.partial(walked, walk))(*given)
        for walk in (scan.default, scan.by_scan)
    )
    assert_close(ours, theirs)


def parts(step, *examples):
    """The operations that are made beside a loop of one carry and one input."""
    jaxpr, _ = flat.trace(step, examples)
    loop = loops.Loop(jaxpr, len(examples) - 2, 0, 1, length=3, reverse=False)
    found = []

    def inner(operands, loop, maker):
        found.append([eqn.primitive.name for eqn in maker.loop.step.eqns])
        return loops.reference(
            *operands[: -len(maker.loop.step.outvars)],
            *loops.reference(*maker.operands, loop=maker.loop),
            loop=loop,
        )

    *shared, h, x = (draw(i, a.shape) for i, a in enumerate(examples))
    operands = *shared, h[None], jnp.broadcast_to(x, (1, 3, *x.shape))
    out = apart.walk(operands, loop, inner)
    assert_close(out, loops.reference(*operands, loop=loop))
    return found[0]


def test_what_becomes_of_a_product_is_made_with_it():
    w, b, h = jnp.zeros((4, 4)), jnp.zeros(4), jnp.zeros(4)

    def biased(w, b, h, x):
        return [h + jnp.tanh(x @ w + b)]

    def deep(w, b, h, x):
        return [h + jnp.exp(x @ w) @ w]

    def read_twice(w, b, h, x):
        z = x @ w
        return [h * z + jnp.sin(z)]

    def put_out(w, b, h, x):
        z = x @ w
        return [h + jnp.sin(z), z]

    def larger(w, b, h, x):
        return [(h + jnp.outer(x @ w, b)).sum(axis=1)]

    def compared(w, b, h, x):
        return [jnp.where(x @ w > 0, h, b)]

    # Flags are made where they are read: only floats go from one loop to another.
    assert parts(compared, w, b, h, h) == ["dot_general"]
    assert parts(biased, w, b, h, h) == ["dot_general", "add", "tanh"]
    assert parts(deep, w, b, h, h) == ["dot_general", "exp", "dot_general"]
    assert parts(read_twice, w, b, h, h) == ["dot_general"]
    assert parts(put_out, w, b, h, h) == ["dot_general"]
    assert "mul" not in parts(larger, w, b, h, h)
