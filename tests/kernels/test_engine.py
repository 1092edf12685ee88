"""The native engine agrees with the scan, for steps that it knows and for others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS

import rnnjax
from rnnjax import kernels, scan
from rnnjax.kernels import assembly, fusions, loops, native, native_loop, nodes

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        not native.available(), reason=f"no native kernels: {native.reason()}"
    ),
]


def draw(seed, shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def pulled_back(step, walk, params, carry, xs):
    """Values and gradients of a ragged batch with resets."""
    rows = len(jax.tree.leaves(xs)[0])
    mask = jnp.arange(4) < jnp.resize(jnp.array([4, 2, 3]), (rows,))[:, None]
    where = jnp.array([[False, False, True, False]] * rows)

    def one(params, carry, xs, mask, where):
        beside = {"mask": mask, "reset": rnnjax.Reset(where, carry)}
        return walk(lambda params, x: x, step, params, carry, xs, **beside)

    def loss(params, carry, xs):
        out = jax.vmap(one, (None, None, 0, 0, 0))(params, carry, xs, mask, where)
        leaves = [jnp.asarray(a, jnp.float32) for a in jax.tree.leaves(out)]
        return sum(
            (a * jnp.cos(jnp.arange(a.size)).reshape(a.shape)).sum() for a in leaves
        ), out

    gradient = jax.jit(jax.grad(loss, has_aux=True)).lower(params, carry, xs)
    return gradient.compile()(params, carry, xs), gradient.as_text()


def assert_close(one, other):
    def check(a, b):
        scale = 1e-5 + 1e-4 * np.abs(b).max(initial=0)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=scale)

    jax.tree.map(check, one, other)


def on_both(step, params, carry, xs, native_loops=2):
    """Compare both walks, of which ours is native, forward and back.

    Few rows do some of their products apart from the loop; many do not.
    """
    for repeats in (1, 2):
        more = jax.tree.map(lambda a, n=repeats: jnp.concatenate([a] * n), xs)
        given = params, carry, more
        ours, program = pulled_back(step, scan.default, *given)
        assert program.count("@rnnjax_loop") == native_loops
        assert_close(ours, pulled_back(step, scan.fused, *given)[0])


FLOATING = [
    (cell, x)
    for cell, x in CELLS
    if not str(cell).startswith("clockwork")  # its carry counts
]


@pytest.mark.drawn(0.15)
@pytest.mark.parametrize(("cell", "x"), FLOATING, ids=lambda v: repr(v)[:60])
def test_every_cell_walks_as_with_the_scan(cell, x):
    params = cell.init(jax.random.key(0))
    xs = jax.tree.map(lambda a: draw(1, (3, 4, *a.shape)), x)
    # Convolutions are unknown, and a reservoir learns nothing.
    loops = {"conv": 0, "echo": 1}.get(str(cell)[:4], 2)
    on_both(cell.step, params, cell.initial_carry(params), xs, loops)


@pytest.mark.parametrize("size", [(16, 64), (3, 17)])
@pytest.mark.parametrize("make", [rnnjax.mgu, rnnjax.gru, rnnjax.lstm])
def test_whole_vectors_and_parts_of_them(make, size):
    cell = make(*size)
    params = cell.init(jax.random.key(0))
    xs = draw(1, (3, 4, size[0]))
    on_both(cell.step, params, cell.initial_carry(params), xs)


@pytest.mark.parametrize("units", [16, 24, 32])
@pytest.mark.parametrize(
    "make",
    [
        functools.partial(rnnjax.mlstm, heads=2),
        functools.partial(rnnjax.slstm, heads=2),
        rnnjax.delta_net,
        rnnjax.gated_delta_net,
        rnnjax.gated_linear_attention,
        rnnjax.unitary,
    ],
    ids=lambda make: getattr(make, "func", make).__name__,
)
def test_matrices_of_whole_vectors_and_of_more_than_a_strip(make, units):
    """Those of the zoo are smaller than a vector."""
    cell = make(3, units)
    params = cell.init(jax.random.key(0))
    xs = draw(1, (3, 4, 3))
    on_both(cell.step, params, cell.initial_carry(params), xs)


def test_rows_and_elements_that_are_repeated_in_whole_vectors():
    def step(params, memory, x):
        keys, values = jnp.tanh(x[0, :, :3]), jnp.sin(x[1])
        memory = params * keys[..., None] * memory + keys[..., None] * values[:, None]
        return memory, memory * values[:, None] - keys[..., None]

    state = 2, 3, 16
    on_both(step, draw(0, state), draw(1, state), draw(2, (3, 4, 2, 2, 16)))


@pytest.mark.parametrize("gates", [(2, 1, 1), (2, 2, 1), (1, 1, 1), (2, 1, 2)])
@pytest.mark.parametrize("size", [(2, 3, 15), (2, 5, 16), (2, 3, 600), (1, 2, 1100)])
@pytest.mark.parametrize("first", ["kept", "written"])
def test_gates_of_matrices_that_are_written_into(gates, size, first):
    """A gate of each matrix, of each row, of all of them and of each column."""
    n, rows, row = size
    shape = [most if n > 1 else 1 for n, most in zip(gates, size, strict=True)]

    def step(params, memory, x):
        keys, values, gate = x[0, :, :rows], x[1], jnp.tanh(x[2]).reshape(-1)
        kept = gate[: np.prod(shape)].reshape(shape) * memory
        written = keys[..., None] * values[:, None]
        memory = kept + written if first == "kept" else written + kept
        return memory, jnp.einsum("hij,hi->hj", memory, params)

    given = draw(0, (n, rows)), draw(1, size), draw(2, (3, 4, 3, n, row))
    on_both(step, *given)


@pytest.mark.parametrize(
    ("product", "weights_first", "weights", "state"),
    [
        ("nij,ni->nj", True, (2, 5, 5), (2, 5)),
        ("ni,nji->nj", False, (2, 5, 5), (2, 5)),
        ("ni,ij->nj", False, (5, 5), (2, 5)),
        ("ij,ni->nj", True, (5, 5), (2, 5)),
        ("i,jik->jk", False, (2, 6, 3), (6,)),
    ],
)
def test_blocks_of_weights_and_several_vectors(product, weights_first, weights, state):
    """They become products of a vector and a matrix, in whatever order they stand."""

    def step(params, h, x):
        factors = [params, h] if weights_first else [h, params]
        h = jnp.tanh(jnp.einsum(product, *factors).reshape(state) + x)
        return h, h

    on_both(step, draw(0, weights), draw(1, state), draw(2, (3, 4, *state)))


def test_products_change_the_places_of_their_factors_in_place_of_their_axes():
    def step(params, memory, x):
        blocks = jnp.einsum("bi,bj->bij", x, params)
        turned = jnp.einsum("bij,bkj->bki", memory, memory)
        memory = jnp.tanh(memory + blocks.transpose(0, 2, 1) + turned)
        both = jnp.einsum("bi,bj->bij", x, x * params)
        return memory, (both.sum(axis=2), (both.transpose(0, 2, 1) * memory).sum())

    on_both(step, draw(0, (2, 5)), draw(1, (2, 5, 5)), draw(2, (3, 4, 2, 5)))


def test_a_scan_within_a_step():
    def step(params, h, x):
        def layer(below, part):
            h, w = part
            h = jnp.tanh(below @ w + h)
            return h, h

        top, h = jax.lax.scan(layer, x, (h, params), reverse=True)
        return h, top

    on_both(step, draw(0, (3, 4, 4)), draw(1, (3, 4)), draw(2, (3, 4, 4)))


def test_a_step_runs_operation_by_operation_where_jit_is_off():
    """Then its values can be printed and looked at in a debugger."""
    seen = []

    def step(params, h, x):
        seen.append(float(h))
        return h + x, h

    with jax.disable_jit():
        scan.default(lambda params, x: x, step, (), jnp.zeros(()), jnp.arange(3.0))
    assert seen == [0, 0, 1]


def test_one_element_for_all_of_a_matrix():
    """More numbers than a strip holds, and the last element of several."""

    def step(params, memory, x):
        memory = 0.5 * memory + x[2] * params + x[:1]
        return memory, memory.sum()

    on_both(step, draw(0, (20, 30)), draw(1, (20, 30)), draw(2, (3, 4, 3)))


def test_what_depends_on_the_params_alone_is_done_before():
    """Though numbers are among it, and operations that the engine does not know."""

    def step(params, h, x):
        scale = jnp.cbrt(jnp.where(params > 0, params, 1.0))
        h = jnp.tanh(scale * h + x)
        return h, h

    on_both(step, draw(0, (5,)), draw(1, (5,)), draw(2, (3, 4, 5)))


def test_a_part_that_is_read_twice():
    def step(params, h, x):
        h = jnp.tanh(h + x)
        both = jnp.concatenate([h, 2 * x, h])
        return h, both * params

    on_both(step, draw(0, 48), draw(1, 16), draw(2, (3, 4, 16)))


def test_sums_over_two_axes():
    def step(params, h, x):
        gates = jnp.einsum("hi,ghij->ghj", h, params)
        h = jnp.einsum("ghj,ghij->hi", jnp.sin(gates + x[0]), params)
        return jnp.tanh(h), gates

    on_both(step, draw(0, (3, 2, 5, 5)), draw(1, (2, 5)), draw(2, (3, 4, 1)))


def test_it_keeps_the_laws():
    cell = rnnjax.mgu(3, 5, traversal=scan.default)
    rnnjax.testing.check_cell(cell, jnp.ones(3))


# What numbers do at the ends of their range, and where functions bend.
POINTS = [0.0, -0.0, 1e-6, -0.3, 0.7, -1.0, 3.0, -20.0, 87.0, 89.0, -90.0, 1e30]
POINTS += [np.inf, -np.inf, np.nan, 1e-30]
UNARY = {
    "abs": jnp.abs,
    "exp": jnp.exp,
    "exp2": jnp.exp2,
    "expm1": jnp.expm1,
    "floor": jnp.floor,
    "is_finite": jnp.isfinite,
    "log": jnp.log,
    "log1p": jnp.log1p,
    "logistic": jax.nn.sigmoid,
    "neg": jnp.negative,
    "power": lambda x: jax.lax.integer_pow(x, -3),
    "rsqrt": jax.lax.rsqrt,
    "sign": jnp.sign,
    "sqrt": jnp.sqrt,
    "tanh": jnp.tanh,
    "sin": lambda x: jnp.sin(jnp.clip(x, -4, 4)),
    "cos": lambda x: jnp.cos(jnp.clip(x, -4, 4)),
    "erf": jax.lax.erf,
}
NAMES = ["add", "sub", "mul", "div", "max", "min", "rem", "pow"]
NAMES += ["eq", "ne", "lt", "le", "gt", "ge"]
BINARY = {name: getattr(jax.lax, name) for name in NAMES}


def test_operations_are_those_of_jax():
    points = jnp.asarray(POINTS, jnp.float32)
    xs, ys = (a.ravel() for a in jnp.meshgrid(points, points))

    def step(params, carry, z):
        x, y = z
        out = {name: fun(x) for name, fun in UNARY.items()}
        out |= {name: fun(x, y) for name, fun in BINARY.items()}
        out["select"] = jnp.where((x > 1) & ~(y < 0) | (x == y), x, y)
        out["clamp"] = jax.lax.clamp(-1.0, x, 2.0)
        return carry, out

    given = (lambda params, x: x, step, (), jnp.zeros(2), (xs[None], ys[None]))
    asked = jax.make_jaxpr(lambda: scan.default(*given))()
    assert any(eqn.primitive is loops.loop_p for eqn in asked.eqns)
    _, ours = jax.jit(lambda: scan.default(*given))()
    _, theirs = step((), None, (xs, ys))
    for name, value in theirs.items():
        np.testing.assert_allclose(
            ours[name][0], value, rtol=2e-6, atol=3e-38, err_msg=name
        )


def test_remainders_and_whole_numbers_are_exact():
    random = np.random.default_rng(0)
    xs, ys = random.uniform(-1, 1, (2, 5, 4096)) * 10 ** random.uniform(-3, 9, 4096)
    ys[:, ::2] = np.round(ys[:, ::2])
    xs[:, ::4] = ys[:, ::4] * random.integers(-3000, 3000, (5, 1024))
    xs, ys = xs.astype(np.float32), ys.astype(np.float32)

    def step(params, carry, z):
        return carry, (jax.lax.rem(*z), jnp.floor(z[0]))

    given = (lambda params, x: x, step, (), jnp.zeros(2), (xs, ys))
    _, (left, whole) = jax.jit(lambda: scan.default(*given))()
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(left, np.fmod(xs, ys))
    np.testing.assert_array_equal(whole, np.floor(xs))


def test_reductions_and_products_of_values():
    def step(params, memory, x):
        turned = memory.T @ x[:4]
        both = memory @ memory.T
        centred = memory - memory.mean(axis=0) - memory.max(axis=1, keepdims=True)
        memory = jnp.tanh(0.1 * centred + jnp.outer(x[:4], turned) * params)
        return memory, (both.sum(axis=(0, 1)), jnp.flip(x), jnp.roll(turned, 1))

    on_both(step, draw(2, 4), draw(3, (4, 4)), draw(1, (3, 4, 5)))


def test_one_element_multiplied_and_summed_as_many():
    def step(params, h, x):
        many = jnp.broadcast_to(jnp.tanh(x[1]), 5)
        square = jnp.broadcast_to(jnp.exp(h[0]), (5, 5))
        h = jnp.tanh(many @ params + square @ h + h)
        return h, (many.sum(), square.max(axis=0), square @ jnp.outer(h, many))

    on_both(step, draw(2, (5, 5)), draw(3, 5), draw(1, (3, 4, 2)))


@pytest.mark.parametrize("size", [1, 7, 15, 16, 17, 33, 100])
def test_sums_of_rows_of_any_length(size):
    """Sixteen rows are added up together, and the rest one by one.

    Which element is the largest is kept: computed again, it may be rounded to none.
    """
    rows, state = 37, (37, size)

    def step(params, memory, x):
        squares = jnp.einsum("ij,ij->j", memory, memory).sum()
        found = (memory @ x[0] + squares / rows) / size
        turned = x[1, :1] * (found @ memory) / rows
        pairs = jnp.einsum("ki,kj->ij", memory[:3], memory[:3])
        new = found[:, None] * jnp.tanh(turned + x[1])
        memory = jnp.tanh(params * memory + new)
        # Rounding must not decide which one is the largest.
        apart = memory * jnp.cos(7.0 * jnp.arange(rows * size).reshape(state))
        reduced = memory.sum(axis=1), apart.max(axis=1), apart.min(axis=0)
        return memory, (*reduced, pairs)

    on_both(step, draw(2, ()), draw(0, state), draw(1, (3, 4, 2, size)))


@pytest.mark.parametrize("size", [3, 16])
def test_carries_that_are_read_after_their_next_values_are_made(size):
    """What is written over its carry must not be missed by others."""

    def step(params, carry, x):
        a, b, memory, count = carry
        after = jnp.tanh(a * params + x), a, jnp.outer(memory[0], b) - memory, count + 1
        late = jnp.sin(after[0]) * a + after[2].sum(axis=0) * memory[:, 0]
        again = late[-1] * a[0] * memory
        return after, (late, again.sum(axis=1), after[2][0] - b)

    carry = (draw(0, size), draw(1, size), draw(2, (size, size)), jnp.zeros(()))
    on_both(step, draw(3, size), carry, draw(4, (3, 4, size)))


@pytest.mark.parametrize("rows", [3, 40])
@pytest.mark.parametrize("size", [5, 17, 30])
def test_parts_of_rows_that_do_not_end_with_a_vector(size, rows):
    """They are made in any order, and next to each other wherever they begin."""

    def step(params, carry, x):
        h, sums = carry
        z = jnp.concatenate([x, h]) @ params
        one, two, three = jnp.split(z, 3)
        two = jnp.where(two > 0, jnp.tanh(two), h)
        one = jnp.exp(-jnp.square(one)) * two
        joined = jnp.concatenate([jnp.sin(three) * one, h, two, one - x])
        h = jnp.cos(joined[size : 2 * size] + joined[-size:])
        return (h, sums + joined), (joined, joined[1:-1] * 2.0, h > 0)

    carry = draw(0, size), jnp.zeros(4 * size)
    params = 0.3 * draw(1, (2 * size, 3 * size))
    on_both(step, params, carry, draw(2, (rows, 4, size)))


@pytest.mark.parametrize("inputs", [1, 3])
@pytest.mark.parametrize("size", [5, 16, 30])
def test_differences_of_products(size, inputs):
    """As one product with some weights turned round, wherever that can be."""

    def step(params, carry, x):
        a, b, c, bias = params
        h, g = carry
        both = h @ a - g @ b
        less = bias - x @ c
        more = x @ c - bias
        three = (x @ c - h @ a) - g @ b
        four = (bias - h @ a) - (h @ b - x @ c)
        return (jnp.tanh(both + less), jnp.sin(more - three)), four - less

    params = draw(0, (size, size)), draw(1, (size, size)), draw(2, (inputs, size))
    carry = draw(3, size), draw(4, size)
    on_both(step, (*params, draw(5, size)), carry, draw(6, (3, 4, inputs)))


@pytest.mark.parametrize("turned", [False, True])
def test_one_number_is_multiplied_with_weights_by_elements(turned, monkeypatch):
    kinds = []
    lay_out = assembly.lay_out

    def seen(loop, groups, places):
        kinds.append([node.kind for group in groups for node in group])
        return lay_out(loop, groups, places)

    def step(w, h, x):
        x = (w @ x) if turned else (x @ w)
        return jnp.cos(h - x), h + x

    monkeypatch.setattr(assembly, "lay_out", seen)
    shape = (7, 1) if turned else (1, 7)
    on_both(step, draw(0, shape), draw(1, 7), draw(2, (6, 4, 1)))
    assert nodes.PRODUCT not in kinds[0]


@pytest.mark.parametrize("size", [2, 5, 17, 30])
def test_a_product_as_a_part_leaves_its_neighbours_alone(size):
    """It is written in whole vectors, over those that there are already."""

    def step(params, carry, x):
        h, before = carry
        last = jnp.tanh(h @ params + x)
        first = jnp.sin(last) @ params + h
        both = jnp.concatenate([first, last])
        return (jnp.tanh(both[:size] - before[-size:]), both), both

    carry = draw(0, size), draw(1, 2 * size)
    on_both(step, draw(2, (size, size)), carry, draw(3, (3, 4, size)))


def test_a_product_as_a_part_of_a_carry_stays_within_it():
    """Behind it is the carry of before, which is read later."""
    cell = rnnjax.attention_window(rnnjax.intersection_rnn(2), 2, 2, 2)
    params = cell.init(jax.random.key(0))
    carry = jax.tree.map(lambda a: draw(1, a.shape), cell.initial_carry(params))

    def pulled(walk):
        cell = rnnjax.attention_window(
            rnnjax.intersection_rnn(2, traversal=walk), 2, 2, 2
        )

        def loss(params):
            return sum(jnp.square(a).sum() for a in cell.unroll(params, carry, xs)[1:])

        return jax.jit(jax.value_and_grad(loss)).lower(params)

    xs = draw(2, (5, 2))
    ours = pulled(scan.default)
    assert ours.as_text().count("@rnnjax_loop") == 2
    assert_close(ours.compile()(params), pulled(scan.fused).compile()(params))


def test_a_program_that_writes_over_its_neighbours_is_found(monkeypatch):
    """What watches all programs of the tests would find it."""
    monkeypatch.setattr(fusions, "by_vectors", lambda out, whole: True)

    def step(params, carry, x):
        last = jnp.tanh(x)
        return carry, jnp.concatenate([last @ params + carry, last])

    with pytest.raises(AssertionError, match="is not at"):
        on_both(step, draw(0, (5, 5)), draw(1, 5), draw(2, (3, 4, 5)))


@pytest.mark.parametrize("units", [1, 40])
def test_more_rows_than_are_walked_at_the_same_time(units):
    """Groups of them, as small as a register block where the weights are small."""

    def step(params, carry, x):
        weights, scale = params
        h, wide = carry
        h = jnp.tanh(h @ weights + x)
        wide = jnp.sin(wide * scale) + h.sum()
        return (h, wide), (h, wide.sum())

    carry = draw(0, units), draw(1, 20_000)
    params = draw(2, (units, units)), draw(3, 20_000)
    on_both(step, params, carry, draw(4, (15, 4, units)))


@pytest.mark.parametrize("make", [rnnjax.lstm, rnnjax.gru, rnnjax.sru, rnnjax.nas])
def test_what_is_kept_is_written_over_once_it_is_read(make):
    """Cotangents take no memory, and what the way back was given may be used again."""
    cell = make(16, 64, traversal=native_loop.walk)
    params, xs = cell.init(jax.random.key(0)), draw(1, (6, 5, 16))

    def walked(params, xs):
        return rnnjax.unroll(cell, params, xs)[1]

    gradient = jax.jit(jax.grad(lambda *given: jnp.sin(walked(*given)).sum()))
    text = gradient.lower(params, xs).as_text()
    back = [line for line in text.splitlines() if "@rnnjax_loop" in line][-1]
    assert back.count("output_operand_alias<") >= 3
    ys, pull = jax.vjp(walked, params, xs)
    first = pull(ys)
    jax.tree.map(np.testing.assert_array_equal, pull(ys), first)


def test_what_it_does_not_know_walks_with_the_scan():
    cell = rnnjax.conv_lstm((4, 2), 2, traversal=scan.default)
    lacking = "the native loop has no convolution"
    assert kernels.status(cell, jnp.ones((4, 2))) == ("scan", lacking)
    params = cell.init(jax.random.key(0))
    xs = draw(1, (3, 4, 4, 2))
    on_both(cell.step, params, cell.initial_carry(params), xs, native_loops=0)
    assert kernels.status(rnnjax.mgu(2, 3), jnp.ones(2)).name == "native"


def test_derivatives_of_every_order_and_ensembles():
    cell, other = (
        rnnjax.mgu(2, 3, traversal=walk) for walk in (scan.default, scan.fused)
    )
    params, xs = cell.init(jax.random.key(0)), draw(1, (4, 2))
    members = jax.vmap(cell.init)(jax.random.split(jax.random.key(1), 2))

    def both(fun):
        return [jax.jit(lambda c=c: fun(c))() for c in (cell, other)]

    def loss(cell, params, xs):
        return jnp.sin(cell.unroll(params, cell.initial_carry(params), xs)[1]).sum()

    assert_close(
        *both(
            lambda c: jax.hessian(lambda b: loss(c, params._replace(b=b), xs))(params.b)
        )
    )
    assert_close(*both(lambda c: jax.vmap(jax.grad(lambda p: loss(c, p, xs)))(members)))
    assert_close(
        *both(lambda c: jax.jvp(lambda p: loss(c, p, xs), (params,), (params,)))
    )


def test_an_lstm_keeps_no_more_than_its_kernel():
    cell = rnnjax.lstm(2, 3)
    params = cell.init(jax.random.key(0))
    given = (params, cell.initial_carry(params), draw(1, (4, 2)))

    def walked(*given):
        return native_loop.walk(lambda params, x: x, cell.step, *given)

    def back(*given):
        out, vjp = jax.vjp(walked, *given)
        return vjp(out)

    jaxpr = jax.make_jaxpr(back)(*given)
    forward, backward = (e for e in jaxpr.eqns if e.primitive is loops.loop_p)
    # The carry, ys and what the kernel keeps; jax 0.12 states the step's derivative in
    # another way, and keeps two more.
    assert len(forward.outvars) in (2 + 1 + 6, 2 + 1 + 8)
    names = [eqn.primitive.name for eqn in jaxpr.eqns]
    assert names.count("weight_gradient") == 2
    assert backward.params["loop"].reverse
