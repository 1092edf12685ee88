"""The parts of a carry are what the equations say, and nothing unproven passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rnnjax import structure

H, S = jnp.ones(3), jnp.ones((3, 2))


def parts(step, carry, *given):
    return [tuple(part) for part in structure.of(step, carry, *given)]


AFFINE = {
    "a decay": (lambda h, a: a * h + a, H, (0,)),
    "a choice between constants": (
        lambda h, a: jnp.where(a > 0, h, a) / (1 + a * a),
        H,
        (0,),
    ),
    "a difference": (lambda h, a: a - (h - a) - h, H, (0,)),
    "halves and whole": (
        lambda h, a: jnp.concatenate([h[:1] * 2, jnp.split(h, [1])[1] + a[1:]]),
        H,
        (0,),
    ),
    "what is left of a sum of one": (
        lambda h, a: jnp.einsum("ij,j->ij", h[:, None], a[:1]).sum(1),
        H,
        (0,),
    ),
    "a constant": (lambda h, a: a, H, (0,)),
    "through jit and checkpoint": (
        lambda h, a: jax.jit(jax.checkpoint(lambda h: a * h))(h),
        H,
        (0,),
    ),
    "neighbours": (lambda h, a: a * jnp.roll(h, 1), H, ()),
    "a matrix": (lambda h, a: h @ jnp.outer(a, a), H, ()),
    "a gather": (lambda h, a: h[jnp.array([2, 0, 1])], H, ()),
    "a running sum": (lambda h, a: jnp.cumsum(h), H, ()),
    "outer products": (lambda s, a: a[:, None] * s + jnp.outer(a, a[:2]), S, (0, 1)),
    "the rows of a memory": (lambda s, a: s - jnp.outer(a, a @ s), S, (1,)),
    "its columns": (lambda s, a: s - jnp.outer(s @ a[:2], a[:2]), S, (0,)),
    "a memory in batches": (
        lambda s, a: jnp.einsum("kij,ki->kj", np.ones((3, 2, 2), np.float32), s),
        S,
        (0,),
    ),
}


@pytest.mark.parametrize(("step", "carry", "apart"), AFFINE.values(), ids=AFFINE)
def test_affine_steps(step, carry, apart):
    assert parts(step, carry, H) == [((0,), "affine", apart, ())]


def _straight_through(h):
    @jax.custom_jvp
    def rounded(h):
        return h

    rounded.defjvp(lambda primals, tangents: (primals[0], 2 * tangents[0]))
    return rounded(h)


NONLINEAR = {
    "a product of the carry with itself": lambda h, a: h * (a * h),
    "a division by the carry": lambda h, a: a / h,
    "a power of the carry": lambda h, a: h**3,
    "a tanh of the carry": lambda h, a: jnp.tanh(h @ jnp.outer(a, a)),
    "a maximum of the carry": lambda h, a: jnp.maximum(a * h, 0),
    "floor of the carry": lambda h, a: a * h + jnp.floor(h),
    "a rounding of the carry": lambda h, a: h.astype(int).astype(h.dtype),
    "sort of the carry": lambda h, a: jnp.sort(h),
    "a carry whose gradient is stopped": lambda h, a: a * jax.lax.stop_gradient(h),
    "a function of the carry, with its own gradient": lambda h, a: _straight_through(h),
    "a loop over the carry": lambda h, a: jax.lax.fori_loop(
        0, 3, lambda i, h: h * a, h
    ),
    "a multiple of a maximum of the carry": lambda h, a: -jnp.maximum(h, a),
    "a sum with a maximum of the carry": lambda h, a: jnp.maximum(h, a) + h,
}


@pytest.mark.parametrize("why", NONLINEAR)
def test_what_is_not_affine_is_said(why):
    ((_, kind, _, found),) = parts(NONLINEAR[why], H, H)
    assert kind == "nonlinear"
    assert found == (why,)


def test_reasons_stand_in_the_order_of_the_program():
    def step(h, a):
        return jnp.where(h > 0, jnp.exp(h) * jnp.tanh(h), a)

    ((*_, why),) = parts(step, H, H)
    assert why == (
        "a comparison of the carry",
        "exp of the carry",
        "a tanh of the carry",
        "a product of the carry with itself",
        "a choice by the carry",
    )


def test_leaves_come_after_those_that_they_read():
    def step(carry, a):
        memory, norm, top = carry
        new = jnp.maximum(top + a[0], a[1])
        decay = jnp.exp(top - new)
        return decay * memory + jnp.outer(a, a[:2]), decay * norm + memory[:, 0], new

    assert parts(step, (S, H, H[0]), H) == [
        ((2,), "max-plus", (), ()),
        ((0,), "affine", (0, 1), ()),
        ((1,), "affine", (0,), ()),
    ]


def test_leaves_that_read_each_other_are_one_part():
    def step(carry, a):
        re, im = carry
        return a * re - im, a * im + re

    assert parts(step, (H, H), H) == [((0, 1), "affine", (0,), ())]


def test_a_maximum_over_units_is_no_part_that_walks_alone():
    ((_, kind, _, why),) = parts(lambda h, a: jnp.maximum(jnp.flip(h), a), H, H)
    assert (kind, why) == ("nonlinear", ("a maximum over units of the carry",))


def test_a_product_of_two_leaves_is_affine_in_the_later_one():
    def step(carry, a):
        gate, h = carry
        return a * gate, gate * h + a

    kinds = [part.kind for part in structure.of(step, (H, H), H)]
    assert kinds == ["affine", "affine"]
    whole = structure.whole(step, (H, H), H)
    assert (whole.kind, whole.apart) == ("nonlinear", (0,))
