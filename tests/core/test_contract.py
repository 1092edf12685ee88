"""Every cell, in every combinator, under every traversal, keeps every law."""

import dataclasses
import gc
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import scan, signals, testing

CELLS = {
    "elman": rnnjax.elman,
    "elman-relu": lambda i, h, **kw: rnnjax.elman(i, h, activation=jax.nn.relu, **kw),
    "lstm": rnnjax.lstm,
    "gru": rnnjax.gru,
    "gru-before": lambda i, h, **kw: rnnjax.gru(i, h, reset_after=False, **kw),
}

COMBINATORS = {
    "alone": lambda cell: cell(3, 4),
    "stack": lambda cell: rnnjax.stack(cell(3, 4), rnnjax.dropout(0.5), cell(4, 2)),
    "parallel": lambda cell: rnnjax.parallel(cell(3, 4), rnnjax.reverse(cell(3, 2))),
    "reverse": lambda cell: rnnjax.reverse(cell(3, 4)),
    "bidirectional": lambda cell: rnnjax.bidirectional(cell(3, 4)),
    "residual": lambda cell: rnnjax.residual(cell(3, 3)),
    "learned-carry": lambda cell: rnnjax.learned_carry(cell(3, 4)),
    "learned-stack": lambda cell: rnnjax.learned_carry(
        rnnjax.stack(cell(3, 2), rnnjax.learned_carry(cell(2, 2)))
    ),
    "read-out": lambda cell: rnnjax.stack(
        cell(3, 4), rnnjax.pointwise(jnp.tanh), rnnjax.dense(4, 2)
    ),
}

TRAVERSALS = {
    "default": None,  # a kernel where there is one, which takes float32 and bfloat16
    "fused": scan.fused,
    "hoisted": scan.hoisted,
    "deferred": scan.deferred,
    "checkpointed": scan.checkpointed,
}

MEMORYLESS = {
    "dense": rnnjax.dense(3, 2),
    "pointwise": rnnjax.pointwise(jnp.sin),
    "dropout": rnnjax.dropout(0.3),
}


def build(cell, combinator, traversal):
    def with_traversal(i, h):
        return CELLS[cell](i, h, traversal=TRAVERSALS[traversal])

    return COMBINATORS[combinator](with_traversal)


# A combinator meets one cell and walk here, all that there are in test_product.py.
WALKS = [name for name in TRAVERSALS if name != "default"]
COMBINED = list(zip(itertools.cycle(CELLS), COMBINATORS, itertools.cycle(WALKS)))


@pytest.mark.drawn(0.5)
@pytest.mark.parametrize(("cell", "combinator", "traversal"), COMBINED)
def test_every_combinator(cell, combinator, traversal):
    testing.check_cell(build(cell, combinator, traversal), np.ones(3))


# In float64 the default is one of the others: no kernel takes it.
@pytest.mark.drawn(0.25)
@pytest.mark.parametrize(
    ("cell", "combinator"),
    [
        (cell, combinator)
        for (i, cell), (j, combinator) in itertools.product(
            enumerate(CELLS), enumerate(COMBINATORS)
        )
        if (i + j) % 2 == 0
    ],
)
def test_kernels(cell, combinator):
    made = build(cell, combinator, "default")
    testing.check_cell(made, np.ones(3), dtype=jnp.float32)


@pytest.mark.parametrize("cell", MEMORYLESS.values(), ids=MEMORYLESS)
def test_memoryless_cells(cell):
    testing.check_cell(cell, np.ones(3))


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize("cell", CELLS)
def test_tokens_in_front(cell):
    embedded = rnnjax.stack(rnnjax.embedding(7, 3), CELLS[cell](3, 4))
    testing.check_cell(embedded, np.array(6))


@pytest.mark.drawn(0.25)
@pytest.mark.parametrize(
    ("cell", "traversal"),
    [*((cell, "default") for cell in CELLS), *(("gru", walk) for walk in WALKS)],
)
def test_bfloat16(cell, traversal):
    made = build(cell, "alone", traversal)
    testing.check_cell(made, np.ones(3), dtype=jnp.bfloat16)


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize("traversal", TRAVERSALS)
def test_float32(traversal):
    made = build("lstm", "alone", traversal)
    testing.check_cell(made, np.ones(3), dtype=jnp.float32)


def test_static_traversal():
    testing.check_cell(rnnjax.gru(3, 4, traversal=scan.static), np.ones(3))


def test_float16():
    testing.check_cell(rnnjax.gru(3, 4), np.ones(3), dtype=jnp.float16)


# What each law is for: a cell that breaks it, and nothing before it, is caught by name.


def _broken(change):
    cell = rnnjax.gru(3, 4)
    return dataclasses.replace(cell, spec=None, **change(cell))


def _forgets_to_restart(cell):
    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        return cell.unroll(params, carry, xs, mask=mask)

    return {"unroll": unroll}


def _ignores_the_carry(cell):
    def unroll(params, carry, xs, **signals):
        return cell.unroll(params, cell.initial_carry(params), xs, **signals)

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _scales_outputs(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        return carry, 1.001 * ys

    return {"unroll": unroll}


def _wrong_gradient(cell):
    def unroll(params, carry, xs, **signals):
        params = jax.tree.map(jax.lax.stop_gradient, params)
        return cell.unroll(params, carry, xs, **signals)

    return {"unroll": unroll}


def _looks_ahead(cell):
    def unroll(params, carry, xs, **signals):
        return cell.unroll(params, carry, xs - xs.mean(0), **signals)

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _lets_padding_through(cell):
    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry, ys = cell.unroll(params, carry, xs, mask=mask, reset=reset)
        return carry, ys + 0 * xs.sum()

    return {"unroll": unroll, "step": rnnjax.reverse(cell).step}


def _never_restarts(cell):
    return _forgets_to_restart(cell) | {"step": rnnjax.reverse(cell).step}


def _forgets_between_calls(cell):
    calls = []

    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        calls.append(carry)  # a tracer that outlives its trace
        return carry, ys

    return {"unroll": unroll}


def _needs_eight_steps(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        return carry, ys if len(xs) == 8 else 2 * ys

    return {"unroll": unroll}


def _widens_the_carry(cell):
    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        wide = carry.astype(jnp.float32) if carry.dtype == jnp.bfloat16 else carry
        return wide, ys

    return {"unroll": unroll}


@jax.custom_batching.custom_vmap
def _mapped(x):
    return jnp.zeros((), x.dtype)


@_mapped.def_vmap
def _in_a_vmap(size, in_batched, x):
    del size, in_batched
    return jnp.ones((), x.dtype), False


def _knows_that_it_is_mapped(cell):
    """Wrong in every vmap alike, so that no two of them differ."""

    def unroll(params, carry, xs, **signals):
        carry, ys = cell.unroll(params, carry, xs, **signals)
        return carry, ys * (1 + _mapped(jax.lax.stop_gradient(xs)) / 8)

    return {"unroll": unroll}


def _mixes_the_examples(cell):
    """The rule of a batch, where the first example answers for all."""

    @jax.custom_batching.custom_vmap
    def inputs(xs):
        return xs

    @inputs.def_vmap
    def _(size, in_batched, xs):
        del size, in_batched
        return jnp.broadcast_to(xs[:1], xs.shape), True

    def unroll(params, carry, xs, **signals):
        given = jax.lax.stop_gradient(inputs(jax.lax.stop_gradient(xs)))
        # The value is that of the rule, the gradient that of the inputs themselves.
        xs = xs + (given - jax.lax.stop_gradient(xs))
        return cell.unroll(params, carry, xs, **signals)

    return {"unroll": unroll}


def _noisy(draw):
    """A cell whose inputs are scaled by ``draw(keys, time)``."""

    def change(cell):
        def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
            scale = None if key is None else draw(signals.as_keys(key), xs)
            xs = xs if scale is None else xs * scale
            return cell.unroll(params, carry, xs, mask=mask, reset=reset)

        return {"unroll": unroll}

    return change


def _once(key, xs):
    return jax.random.uniform(key, (1, xs.shape[1]), xs.dtype)


def _each(key, xs):
    return jax.random.uniform(key, xs.shape, xs.dtype)


def _repeats_the_noise_of_a_chunk(keys, xs):
    return _each(keys.sequence, xs)


def _noise_reads_the_first_input(keys, xs):
    return _once(keys.sequence, xs) * (1 + xs[0].sum())


def _noise_counts_resets(cell):
    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        if key is not None and reset is not None:
            key = jax.tree.map(lambda k: jax.random.fold_in(k, 1), key)
        if key is not None:
            xs = xs * _each(signals.as_keys(key).step, xs)
        return cell.unroll(params, carry, xs, mask=mask, reset=reset)

    return {"unroll": unroll}


BREAKS = {
    "1-values": (_scales_outputs, "law 1"),
    "1-gradients": (_wrong_gradient, "law 1"),
    "1-reset": (_forgets_to_restart, "law 1"),
    "2": (_needs_eight_steps, "law 2"),
    "3-nan": (_lets_padding_through, "law 3"),
    "3-length": (_looks_ahead, "law 3"),
    "3-identity": (_ignores_the_carry, "law 3"),
    "4": (_never_restarts, "law 4"),
    "5-all": (_knows_that_it_is_mapped, "law 5"),
    "5-rule": (_mixes_the_examples, "law 5"),
    "6": (_widens_the_carry, "law 6"),
    "7": (_forgets_between_calls, "law 7"),
    "2-repeated": (_noisy(_repeats_the_noise_of_a_chunk), "law 2.*with a key"),
    "2-padding": (_noisy(_noise_reads_the_first_input), "law 2.*with a key"),
    "4-noise": (_noise_counts_resets, "law 4.*with a key"),
}


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize(("change", "law"), BREAKS.values(), ids=BREAKS)
def test_a_broken_cell_is_caught_by_the_law_it_breaks(change, law):
    # JAX looks through all that lives for who holds a leaked tracer.
    gc.freeze()
    try:
        with pytest.raises(AssertionError, match=law):
            testing.check_cell(_broken(change), np.ones(3))
    finally:
        gc.unfreeze()


def _five_percent(values):
    def change(cell):
        def unroll(params, carry, xs, **signals):
            carry, ys = cell.unroll(params, carry, xs, **signals)
            if ys.dtype != jnp.bfloat16:
                return carry, ys
            more = ys if values else ys - jax.lax.stop_gradient(ys)
            return carry, ys + jnp.bfloat16(0.05) * more

        return {"unroll": unroll}

    return change


@pytest.mark.parametrize("values", [True, False])
def test_five_percent_are_too_many_in_bfloat16(values):
    broken = _broken(_five_percent(values))
    testing.check_cell(broken, np.ones(3))
    with pytest.raises(AssertionError, match="law 1"):
        testing.check_cell(broken, np.ones(3), dtype=jnp.bfloat16)


@pytest.mark.parametrize("draw", [_once, _each])
def test_noise_of_a_cell_of_your_own_keeps_the_laws(draw):
    def of(keys, xs):
        return draw(keys.sequence if draw is _once else keys.step, xs)

    testing.check_cell(_broken(_noisy(of)), np.ones(3))
