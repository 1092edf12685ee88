"""Programs of TensorFlow 1's tutorials, rewritten, and the page that explains it."""

import itertools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax

pytestmark = pytest.mark.float32
PAGE = (pathlib.Path(__file__).parents[2] / "docs/from-tensorflow-1.md").read_text()
# What every tutorial passes to a cell or to one of the loops.
ARGUMENTS = [
    "num_units",
    "forget_bias",
    "state_is_tuple",
    "activation",
    "reuse",
    "sequence_length",
    "initial_state",
    "dtype",
    "parallel_iterations",
    "swap_memory",
    "time_major",
    "scope",
    "zero_state",
    "state_size",
    "output_size",
]


def rows():
    """TensorFlow's name and our code, of every table that has code of ours."""
    for table in re.findall(
        r"\| TensorFlow 1 \| rnnjax .*\n\|[-|]*\n((?:\|.*\n)+)", PAGE
    ):
        for line in table.splitlines():
            theirs, ours = line.split("|")[1:3]
            yield theirs.strip(), re.findall(r"`([^`]+)`", ours)


@pytest.fixture(scope="module")
def names():
    namespace = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    for block in blocks[:2]:  # what the tables say that they use
        exec(block, namespace)
    return namespace


@pytest.mark.parametrize(("theirs", "ours"), list(rows()))
def test_each_line_of_the_tables_runs(theirs, ours, names):
    assert ours, theirs
    for code in ours:
        eval(code, names)


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_each_argument_has_a_line(argument):
    assert any(re.search(rf"\b{argument}\b", theirs) for theirs, _ in rows())


def test_sizes_of_one_cell():
    cell = rnnjax.elman(100, 128)
    params = cell.init(jax.random.key(0))
    assert rnnjax.carry_spec(cell).shape == (128,)
    assert rnnjax.output_spec(cell, np.zeros(100)).shape == (128,)
    step = jax.vmap(cell.step, (None, 0, 0))
    h, output = step(params, jnp.zeros((32, 128)), jnp.ones((32, 100)))
    assert h.shape == (32, 128)
    np.testing.assert_array_equal(h, output)
    lstm = rnnjax.carry_spec(rnnjax.lstm(100, 128))
    assert [leaf.shape for leaf in (lstm.c, lstm.h)] == [(128,), (128,)]


def test_three_widths_stepped_by_hand_each_with_a_state_of_its_own():
    widths = [100, 200, 300]
    cells = [rnnjax.lstm(i, h) for i, h in zip([5, *widths], widths, strict=False)]
    keys = jax.random.split(jax.random.key(0), 3)
    params = [cell.init(k) for cell, k in zip(cells, keys, strict=True)]
    carries = [cell.initial_carry(p) for cell, p in zip(cells, params, strict=True)]
    xs = jax.random.normal(jax.random.key(1), (4, 5))
    steps = [jax.jit(cell.step) for cell in cells]
    outputs = []
    for x in xs:
        for i, step in enumerate(steps):
            carries[i], x = step(params[i], carries[i], x)
        outputs.append(x)
    assert [carry.h.shape for carry in carries] == [(100,), (200,), (300,)]
    # Stacked, the same weights do the same.
    stacked = rnnjax.stack(*cells)
    start = stacked.initial_carry(tuple(params))
    after, ys = jax.jit(stacked.unroll)(tuple(params), start, xs)
    np.testing.assert_allclose(ys, np.stack(outputs), atol=1e-6)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after, tuple(carries)
    )


@pytest.mark.parametrize("layers", [1, 3])
def test_a_batch_of_32_by_40_by_5(layers):
    sizes = [5, 10, 20, 30][: layers + 1]
    cells = [rnnjax.lstm(i, h) for i, h in itertools.pairwise(sizes)]
    cell = cells[0] if layers == 1 else rnnjax.stack(*cells)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (32, 40, 5))
    carry, ys = rnnjax.unroll(cell, params, xs)
    assert ys.shape == (32, 40, sizes[-1])
    last = carry if layers == 1 else carry[-1]
    assert [a.shape for a in jax.tree.leaves(carry)] == [
        (32, h) for h in sizes[1:] for _ in range(2)
    ]
    # The last output is h, and the state of the last layer in a stack.
    np.testing.assert_array_equal(ys[:, -1], last.h)


def test_lengths_5_10_25_in_one_batch():
    cell = rnnjax.gru(5, 8)
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (3, 25, 5))
    h, ys = rnnjax.unroll(cell, params, xs, lengths=jnp.array([5, 10, 25]))
    for i, length in enumerate([5, 10, 25]):
        alone, outputs = cell.unroll(params, jnp.zeros(8), xs[i, :length])
        np.testing.assert_allclose(h[i], alone, atol=1e-6)
        np.testing.assert_allclose(ys[i, :length], outputs, atol=1e-6)
        assert (ys[i, length:] == 0).all()


def test_the_states_of_both_directions_in_one():
    cell = rnnjax.bidirectional(rnnjax.lstm(5, 8))
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (3, 25, 5))
    lengths = jnp.array([5, 10, 25])
    carries, ys = rnnjax.unroll(cell, params, xs, lengths=lengths)
    both = rnnjax.concatenate_carries(*carries)
    assert both.c.shape == (3, 16)
    last = rnnjax.last_valid(ys, rnnjax.sequence_mask(lengths, 25))
    np.testing.assert_array_equal(both.h[:, :8], last[:, :8])
    np.testing.assert_array_equal(both.h[:, 8:], ys[:, 0, 8:])
