"""The cross-entropy's kernels beside optax's, of any derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rnnjax.kernels import native
from rnnjax.kernels.cross_entropy import cross_entropy

SHAPES = (1, 1), (3, 7), (5, 16), (40, 33), (70, 1000)


def drawn(rows, columns, dtype=np.float32):
    random = np.random.default_rng(0)
    logits = jnp.asarray(3 * random.normal(size=(rows, columns)), dtype)
    return logits, jnp.asarray(random.integers(0, columns, rows), jnp.int32)


def plain(logits, targets):
    wide = logits if logits.dtype.itemsize > 4 else logits.astype(jnp.float32)
    losses = optax.softmax_cross_entropy_with_integer_labels(wide, targets)
    return losses.astype(logits.dtype)


def value(loss, logits, targets):
    return loss(logits, targets)


def gradient(loss, logits, targets):
    weights = jnp.arange(1, len(logits) + 1, dtype=logits.dtype)
    return jax.grad(lambda z: (jnp.sin(loss(z, targets)) * weights).sum())(logits)


def tangent(loss, logits, targets):
    return jax.jvp(lambda z: loss(z, targets), [logits], [jnp.cos(logits)])


def second(loss, logits, targets):
    return jax.grad(lambda z: jnp.cos(gradient(loss, z, targets)).sum())(logits)


def forward_over_reverse(loss, logits, targets):
    run = functools.partial(gradient, loss, targets=targets)
    return jax.jvp(run, [logits], [jnp.cos(logits)])


def reverse_over_forward(loss, logits, targets):
    def run(z):
        return jnp.sin(jax.jvp(lambda z: loss(z, targets), [z], [z * z])[1]).sum()

    return jax.grad(run)(logits)


def batched(loss, logits, targets):
    """Two mapped axes, of which the outer one maps the logits alone, last."""
    given = jnp.stack([logits, -logits], axis=-1)
    each = jax.vmap(jax.value_and_grad(lambda z, t: loss(z[None], t[None])[0]))
    return jax.vmap(each, (2, None))(given, targets)


DERIVED = (
    value,
    gradient,
    tangent,
    second,
    forward_over_reverse,
    reverse_over_forward,
    batched,
)


def agree(derived, given, loss=cross_entropy, tolerance=1e-5):
    got, want = (jax.jit(functools.partial(derived, f))(*given) for f in (loss, plain))
    for a, b in zip(*map(jax.tree.leaves, (got, want)), strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, tolerance, tolerance * (1 + abs(b).max()))


@pytest.mark.drawn(0.5)
@pytest.mark.parametrize("derived", DERIVED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_equals_the_plain_cross_entropy(shape, derived):
    agree(derived, drawn(*shape), tolerance=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("derived", [value, gradient, tangent])
def test_narrow_logits_are_summed_wide(dtype, derived):
    agree(derived, drawn(40, 1000, dtype), tolerance=2**-6)


@pytest.mark.parametrize("derived", [value, gradient, tangent, second])
def test_the_lowering_for_other_platforms_is_the_same(derived, monkeypatch):
    monkeypatch.setattr(native, "available", lambda: False)
    agree(derived, drawn(40, 33))


def test_targets_count_from_the_end_or_are_no_column():
    logits, _ = drawn(4, 6)
    targets = jnp.array([-1, -6, 6, -7])
    agree(value, (logits[:2], targets[:2]))
    agree(gradient, (logits[:2], targets[:2]))
    losses = cross_entropy(logits, targets)
    assert jnp.isnan(losses).tolist() == [False, False, True, True]


def test_infinite_and_missing_logits():
    """What is minus infinity is impossible; a row with NaN is NaN, and no other."""
    logits, targets = drawn(4, 40)
    logits = logits.at[0, :-1].set(-jnp.inf).at[1, 3].set(jnp.nan).at[2].set(1e4)
    targets = targets.at[0].set(39)
    losses = cross_entropy(logits, targets)
    np.testing.assert_allclose(losses[0], 0, atol=1e-6)
    assert jnp.isnan(losses).tolist() == [False, True, False, False]
    np.testing.assert_allclose(losses[2], np.log(40), rtol=1e-5)
    d = jax.grad(lambda z: cross_entropy(z, targets).sum())(logits)
    assert (d[0] == 0).all()
    assert jnp.isnan(d[1]).any()
    assert jnp.isfinite(d[2:]).all()


def test_no_rows_and_more_axes():
    assert cross_entropy(jnp.zeros((0, 3)), jnp.zeros(0, int)).shape == (0,)
    logits, targets = drawn(6, 5)
    apart = cross_entropy(logits.reshape(2, 3, 5), targets.reshape(2, 3))
    np.testing.assert_array_equal(apart.ravel(), cross_entropy(logits, targets))


def test_the_gradient_is_where_the_logits_were():
    """No second array of that size is made: neither a copy nor the exponentials."""
    if not native.available():
        pytest.skip("no native kernels")
    logits, targets = drawn(64, 4096)

    def train(x, w):
        return cross_entropy(x @ w, targets).sum()

    x, w = logits[:, :8], logits[:8]
    memory = jax.jit(jax.grad(train)).lower(x, w).compile().memory_analysis()
    assert memory is not None
    assert memory.temp_size_in_bytes < 1.5 * logits.nbytes


VALUE, GRADIENT = native.CROSS_ENTROPY, native.CROSS_ENTROPY_GRADIENT
WRONG = [
    (VALUE, [(4,), (4,)], [(4,), (4, 2)], r"logits is .* \(4,\), expected"),
    (VALUE, [(4, 3), (3,)], [(4,), (4, 2)], r"targets is int32 .* \(3,\)"),
    (VALUE, [(4, 3), (4,)], [(3,), (4, 2)], r"losses is .* \(3,\), expected"),
    (VALUE, [(4, 3), (4,)], [(4,), (4,)], r"normalizers is .* \(4,\), expected"),
    (GRADIENT, [(4, 3), (4,), (4,), (4,)], [(4, 3)], r"normalizers is .* \(4,\)"),
    (GRADIENT, [(4, 3), (4,), (4, 2), (3,)], [(4, 3)], r"d_losses is .* \(3,\)"),
    (GRADIENT, [(4, 3), (4,), (4, 2), (4,)], [(3, 4)], r"d_logits is .* \(3, 4\)"),
]


@pytest.mark.skipif(not native.available(), reason="no native kernels")
@pytest.mark.parametrize(("target", "given", "results", "message"), WRONG)
def test_wrong_shapes_are_errors(target, given, results, message):
    native.register()
    shapes = [jax.ShapeDtypeStruct(shape, np.float32) for shape in results]
    dtypes = [np.float32, np.int32, np.float32, np.float32]
    operands = [np.zeros(*one) for one in zip(given, dtypes, strict=False)]
    with pytest.raises(Exception, match=f"{target}: {message}"):
        jax.block_until_ready(jax.ffi.ffi_call(target, shapes)(*operands))
