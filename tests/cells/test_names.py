"""Every gate and state in a cell's equations is there in a trace, under its letter."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells.test_zoo import CELLS

import rnnjax

# What a subscript counts: steps, layers, groups and units. Other subscripts are part
# of a name: g_h is "gh".
COUNTED = {"t", "l", "L", "j", "k", "0", "l,t"}

# An accent marks a value on the way to another one, such as the sum in a gate.
ACCENTS = (r"\hat", r"\tilde", r"\dot")


def equations(cell):
    """The ``.. math::`` block at the top of the docstring of its constructor."""
    text = inspect.getdoc(cell.spec.constructor) or ""
    (block,) = re.findall(r"\.\. math::(.*?)(?:\n\S|\Z)", text, re.DOTALL)[:1]
    return block


def letters(block):
    """The letters on the left-hand sides of equations, as names."""
    found = set()
    sides = re.split(r"(?:&=|&\\leftarrow|(?<![&\\])=)", block)
    for side in sides[:-1]:
        # What stands between the end of the equation before and the sign of equality.
        left = re.split(r"\\\\|\\quad", side)[-1].strip()
        if any(accent in left for accent in ACCENTS):
            continue
        row = re.fullmatch(r"\((.*)\)(?:_\w)?", left)
        for symbol in (row[1] if row else left).split(", "):
            name, _, subscript = symbol.partition("_")
            subscript = subscript.strip("{}")
            name = name.removeprefix("\\")
            found.add(
                name if subscript in COUNTED or not subscript else name + subscript
            )
    return found


def traced(cell, x):
    xs = jax.tree.map(lambda a: jnp.asarray(np.stack([a] * 4)), x)
    params = cell.init(jax.random.key(0))
    return rnnjax.trace(cell, params, cell.initial_carry(params), xs)


@pytest.mark.parametrize(("cell", "x"), CELLS, ids=lambda v: repr(v)[:60])
def test_a_trace_has_the_letters_of_the_equations(cell, x):
    found = letters(equations(cell))
    assert found
    assert found <= set(traced(cell, x))


def test_the_letters_are_read():
    assert letters(equations(rnnjax.lstm(1, 1))) == {"i", "f", "g", "o", "c", "h"}
    assert letters(equations(rnnjax.intersection_rnn(2))) == {
        "gh", "nh", "gy", "ny", "h", "y",
    }  # fmt: skip
    assert letters(equations(rnnjax.ltc(2, 2))) == {"v", "y"}
    assert letters(equations(rnnjax.phased_lstm(2, 2))) == {
        "phi", "k", "i", "f", "g", "o", "c", "h",
    }  # fmt: skip
    assert {"i'", "f'", "g'", "o'", "c'", "h'"} < letters(
        equations(rnnjax.grid_lstm(1, 1, 1))
    )


def states(trace, name):
    """A state before each step, from zero, and after it."""
    after = trace[name]
    return jnp.concatenate([jnp.zeros_like(after[:1]), after[:-1]]), after


def of_min_gru(t):
    before, h = states(t, "h")
    return h, (1 - t["z"]) * before + t["z"] * t["n"]


def of_min_lstm(t):
    before, h = states(t, "h")
    f, i = t["f"], t["i"]
    return h, f / (f + i) * before + i / (f + i) * t["n"]


def of_sru(t):
    before, c = states(t, "c")
    return c, t["f"] * before + (1 - t["f"]) * t["content"]


def of_intersection_rnn(t):
    before, h = states(t, "h")
    return h, t["gh"] * before + (1 - t["gh"]) * t["nh"]


def of_cfc(t):
    elapsed = jnp.ones(len(t["s"]))[:, None]
    s = jax.nn.sigmoid(t["a"] * elapsed + t["b"])
    return t["h"], (1 - s) * t["f"] + s * t["g"]


def of_grid_lstm(t):
    before, c = states(t, "c")
    h_up = t["o'"] * jnp.tanh(t["c'"])
    found = jnp.stack([c, t["h"], t["h'"], jnp.broadcast_to(t["y"][:, None], c.shape)])
    h = t["o"] * jnp.tanh(c)
    last = jnp.broadcast_to(h_up[:, -1:], c.shape)
    return found, jnp.stack([t["f"] * before + t["i"] * t["g"], h, h_up, last])


def of_rg_lru(t):
    before, h = states(t, "h")
    x = jnp.linspace(-1, 1, 2)
    return h, t["a"] * before + jnp.sqrt(1 - t["a"] ** 2) * t["i"] * x


def of_slstm(t):
    before, c = states(t, "c")
    found = jnp.stack([c, t["h"]])
    return found, jnp.stack([t["f"] * before + t["i"] * t["z"], t["o"] * c / t["n"]])


def of_gated_linear_attention(t):
    before, s = states(t, "S")
    return s, t["a"][..., None] * before + t["k"][..., None] * t["v"][..., None, :]


EQUATIONS = [
    (rnnjax.min_gru(2, 3), of_min_gru),
    (rnnjax.min_lstm(2, 3), of_min_lstm),
    (rnnjax.sru(2, 3), of_sru),
    (rnnjax.intersection_rnn(2), of_intersection_rnn),
    (rnnjax.cfc(2, 3, backbone_size=4), of_cfc),
    (rnnjax.rg_lru(2), of_rg_lru),
    (rnnjax.slstm(2, 3), of_slstm),
    (rnnjax.gated_linear_attention(2, 4, heads=2), of_gated_linear_attention),
    (rnnjax.grid_lstm(2, 3, layers=2), of_grid_lstm),
]


@pytest.mark.parametrize(
    ("cell", "equation"), EQUATIONS, ids=[cell.spec.name for cell, _ in EQUATIONS]
)
def test_the_values_are_those_of_the_equations(cell, equation):
    x = np.linspace(-1, 1, 2)
    found, expected = equation(
        traced(cell, (x, np.ones(())) if "cfc" in repr(cell) else x)
    )
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.ptp(found) > 0.01
