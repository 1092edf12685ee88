"""xLSTM, gated linear attention and delta rules: papers' loops and parallel forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

TIME, INPUT, HIDDEN = 6, 3, 4
HALF = TIME // 2
KEY = jax.random.key(7)
RNG = np.random.default_rng(2024)


def sigmoid(a):
    return 1 / (1 + np.exp(-a))


def silu(a):
    return a * sigmoid(a)


def drawn(tree):
    return jax.tree.map(lambda a: jnp.asarray(RNG.normal(size=a.shape)), tree)


def given(cell):
    """Drawn params, carry and inputs; what weighs a memory is positive."""
    params = drawn(cell.init(KEY))
    carry = drawn(cell.initial_carry(params))
    if cell.spec.name == "slstm":
        carry = carry._replace(n=jnp.abs(carry.n) + 0.1)
    return params, carry, jnp.asarray(RNG.normal(size=(TIME, INPUT)))


def compare(found, expected):
    leaves = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    for one, other in leaves:
        np.testing.assert_allclose(one, other, atol=1e-9)


# Loops over steps and heads, with the gates themselves in place of their logarithms.


def heads_of(a, heads=2):
    return np.split(a, heads, axis=-1)


def slstm(p, carry, x):
    c, n, m, h = carry
    c, n = c * np.exp(m), n * np.exp(m)
    recurrent = [
        np.concatenate([a @ w for a, w in zip(heads_of(h), ws, strict=True)])
        for ws in p.w_hh
    ]
    i, f, z, o = np.split(x @ p.w_ih + p.b, 4) + np.array(recurrent)
    c = sigmoid(f) * c + np.exp(i) * np.tanh(z)
    n = sigmoid(f) * n + np.exp(i)
    h = sigmoid(o) * c / n
    m = np.maximum(np.log(sigmoid(f)) + m, i)
    return (c / np.exp(m), n / np.exp(m), m, h), h


def mlstm(p, carry, x):
    q, k, v, o = (heads_of(a) for a in np.split(x @ p.w + p.b, 4))
    i, f = np.split(x @ p.w_gates + p.b_gates, 2)
    after, hs = [], []
    for head, (c, n, m) in enumerate(zip(*carry, strict=True)):
        c, n = c * np.exp(m), n * np.exp(m)
        key = k[head] / np.sqrt(2)
        c = sigmoid(f[head]) * c + np.exp(i[head]) * np.outer(v[head], key)
        n = sigmoid(f[head]) * n + np.exp(i[head]) * key
        h = c @ q[head] / max(abs(n @ q[head]), 1)
        hs.append(sigmoid(o[head]) * h)
        m = max(np.log(sigmoid(f[head])) + m, i[head])
        after.append((c / np.exp(m), n / np.exp(m), m))
    c, n, m = (np.stack(a) for a in zip(*after, strict=True))
    return (c, n, m), np.concatenate(hs)


def gated_linear_attention(p, s, x):
    q, k, v = (heads_of(x @ w) for w in (p.w_q, p.w_k, p.w_v))
    a = heads_of(sigmoid(x @ p.w_down @ p.w_up + p.b) ** (1 / 16))
    s = [np.diag(a[m]) @ s[m] + np.outer(k[m], v[m]) for m in range(2)]
    width = np.sqrt(s[0].shape[0])
    return np.stack(s), np.concatenate([q[m] @ s[m] / width for m in range(2)])


def delta_net(p, s, x, a=(1.0, 1.0)):
    q, k = (heads_of(silu(x @ w)) for w in (p.w_q, p.w_k))
    v, beta = heads_of(x @ p.w_v), sigmoid(x @ p.w_beta)
    after, ys = [], []
    for m in range(2):
        query, key = (a / np.sqrt(a @ a + 1e-6) for a in (q[m], k[m]))
        keep = np.eye(len(key)) - beta[m] * np.outer(key, key)
        after.append(a[m] * keep @ s[m] + beta[m] * np.outer(key, v[m]))
        ys.append(query @ after[-1])
    return np.stack(after), np.concatenate(ys)


def gated_delta_net(p, s, x):
    dt = np.log1p(np.exp(x @ p.w_dt + p.b_dt))
    return delta_net(p, s, x, np.exp(-np.exp(p.log_decay) * dt))


CASES = [
    (rnnjax.slstm(INPUT, HIDDEN, heads=2), slstm),
    (rnnjax.mlstm(INPUT, HIDDEN, heads=2), mlstm),
    (
        rnnjax.gated_linear_attention(INPUT, HIDDEN, heads=2, key_size=6),
        gated_linear_attention,
    ),
    (rnnjax.delta_net(INPUT, HIDDEN, heads=2, key_size=6), delta_net),
    (rnnjax.gated_delta_net(INPUT, HIDDEN, heads=2, key_size=6), gated_delta_net),
]


@pytest.mark.parametrize(
    ("cell", "paper"), CASES, ids=lambda v: getattr(v, "__name__", "")
)
def test_cell_is_its_paper(cell, paper):
    params, carry, xs = given(cell)
    p, state, ys = *jax.tree.map(np.asarray, (params, carry)), []
    for x in np.asarray(xs):
        state, y = paper(p, state, x)
        ys.append(y)
    compare(jax.jit(cell.unroll)(params, carry, xs), (state, np.stack(ys)))


# Forms that are parallel in time: a chunk at once, from the carry of the one before.


def chunked(form, params, carry, xs):
    carry, first = form(params, carry, xs[:HALF])
    carry, second = form(params, carry, xs[HALF:])
    return carry, np.concatenate([first, second])


def trace(cell, params, carry, xs, *names):
    found = rnnjax.trace(cell, params, carry, xs)
    return [np.asarray(found[name]) for name in names]


def test_mlstm_is_a_masked_product_of_queries_and_keys():
    """The parallel form of appendix A.3, begun from a carry, stabilised by rows."""
    cell = rnnjax.mlstm(INPUT, HIDDEN)
    params, carry, xs = given(cell)

    def form(p, carry, xs):
        (c,), (n,), (m,) = (np.asarray(a) for a in carry)
        q, k, v, o = np.split(xs @ p.w + p.b, 4, axis=1)
        k, o = k / np.sqrt(HIDDEN), sigmoid(o)
        i, f = (xs @ p.w_gates + p.b_gates).T
        kept = np.cumsum(np.log(sigmoid(f)))
        d = np.where(np.tri(HALF, dtype=bool), kept[:, None] - kept + i, -np.inf)
        top = np.maximum(d.max(1), kept + m)
        scores = (q @ k.T) * np.exp(d - top[:, None])
        old = np.exp(kept + m - top)[:, None]
        weight = scores.sum(1) + old[:, 0] * (q @ n)
        h = scores @ v + old * (q @ c.T)
        h = h / np.maximum(np.abs(weight), np.exp(-top))[:, None]
        left = np.exp(d[-1] - top[-1])[:, None]
        c, n = old[-1] * c + v.T @ (left * k), old[-1] * n + (left * k).sum(0)
        return (c[None], n[None], top[-1:]), o * h

    expected = chunked(form, params, carry, np.asarray(xs))
    compare(cell.unroll(params, carry, xs), expected)


def test_gated_linear_attention_is_a_product_with_its_decays():
    cell = rnnjax.gated_linear_attention(INPUT, HIDDEN)
    params, carry, xs = given(cell)
    q, k, v, a = (b[:, 0] for b in trace(cell, params, carry, xs, *"qkva"))
    kept = np.cumprod(a, 0)
    scores = np.tril((q * kept) @ (k / kept).T)
    last, ys = cell.unroll(params, carry, xs)
    compare(ys, scores @ v + (q * kept) @ carry[0])
    compare(last[0], kept[-1][:, None] * (carry[0] + (k / kept).T @ v))


@pytest.mark.parametrize("make", [rnnjax.delta_net, rnnjax.gated_delta_net])
def test_delta_rules_equal_their_wy_form(make):
    """A chunk at once: the product of its reflections has one triangular inverse."""
    cell = make(INPUT, HIDDEN)
    params, carry, xs = given(cell)
    q, k, v, beta = trace(cell, params, carry, xs, "q", "k", "v", "beta")
    q, k, v = q[:, 0], k[:, 0], v[:, 0]
    a = np.ones((TIME, 1))
    if make is rnnjax.gated_delta_net:
        (a,) = trace(cell, params, carry, xs, "a")

    def form(params, s, steps):
        key, query, b, kept = k[steps], q[steps], beta[steps], np.cumprod(a[steps])
        ratio = np.tril(kept[:, None] / kept)
        lower = np.tril(b * ratio * (key @ key.T), -1)
        t = np.linalg.inv(np.eye(HALF) + lower) * b[:, 0]
        u = t @ v[steps] - (t * kept) @ key @ s
        out = kept[:, None] * (query @ s) + (ratio * (query @ key.T)) @ u
        return kept[-1] * s + (ratio[-1][:, None] * key).T @ u, out

    last, ys = chunked(form, params, np.asarray(carry[0]), np.arange(TIME))
    compare(cell.unroll(params, carry, xs), (last[None], ys))


# What the papers say of them.


@pytest.mark.parametrize("make", [rnnjax.slstm, rnnjax.mlstm])
@pytest.mark.parametrize("bias", [-200.0, 200.0])
def test_exponential_gates_stay_in_range(make, bias):
    """The exponential of either bias is no float32, nor is its inverse."""
    cell = make(INPUT, HIDDEN)
    params = cell.init(KEY)
    if make is rnnjax.slstm:
        params = params._replace(b=params.b.at[:HIDDEN].set(bias))
    else:
        params = params._replace(b_gates=params.b_gates.at[0].set(bias))
    params, xs = jax.tree.map(
        lambda a: a.astype(jnp.float32), (params, RNG.normal(size=(TIME, INPUT)))
    )

    def loss(params):
        return cell.unroll(params, cell.initial_carry(params), xs)[1].sum()

    value, grads = jax.value_and_grad(loss)(params)
    for leaf in [value, *jax.tree.leaves(grads)]:
        assert jnp.isfinite(leaf).all()


def test_slstm_averages_what_it_is_offered():
    cell = rnnjax.slstm(INPUT, HIDDEN)
    params = drawn(cell.init(KEY))
    xs = jnp.asarray(RNG.normal(size=(TIME, INPUT)))
    start = cell.initial_carry(params)
    z, o, h = trace(cell, params, start, xs, "z", "o", "h")
    np.testing.assert_allclose(h[0], o[0] * z[0], atol=1e-12)
    assert (np.abs(h / o) <= np.maximum.accumulate(np.abs(z)) + 1e-12).all()


def test_delta_rule_replaces_the_value_of_a_key():
    """With a step of one the memory answers with the last value.

    But for what is added to a key's length before it divides, 1e-6.
    """
    cell = rnnjax.delta_net(INPUT, HIDDEN)
    params = drawn(cell.init(KEY))
    params = params._replace(w_q=params.w_k, w_beta=jnp.full((INPUT, 1), 100.0))
    xs = jnp.abs(jnp.asarray(RNG.normal(size=(TIME, INPUT))))
    ys = cell.unroll(params, cell.initial_carry(params), xs)[1]
    np.testing.assert_allclose(ys, xs @ params.w_v, rtol=1e-4)


def test_a_gated_delta_net_that_keeps_all_is_a_delta_net():
    gated, plain = rnnjax.gated_delta_net(INPUT, 4), rnnjax.delta_net(INPUT, 4)
    params, carry, xs = given(gated)
    params = params._replace(log_decay=jnp.full(1, -100.0))
    expected = plain.unroll(rnnjax.DeltaNetParams(*params[:4]), carry, xs)
    compare(gated.unroll(params, carry, xs), expected)


@pytest.mark.parametrize("make", [rnnjax.slstm, rnnjax.mlstm, rnnjax.delta_net])
def test_heads_that_do_not_divide_are_refused(make):
    with pytest.raises(ValueError, match="heads=1, or hidden_size=6"):
        make(INPUT, 4, heads=3)
    with pytest.raises(ValueError, match="key_size=4"):
        rnnjax.gated_linear_attention(INPUT, 4, heads=2, key_size=3)
