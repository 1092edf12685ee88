"""Each line of the page for TensorFlow 1 that says ✓ is one that was compared."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cells import test_libraries
from combinators import test_alignment, test_recorded

import rnnjax

TESTS = pathlib.Path(__file__).parents[1]
PAGE = (TESTS.parent / "docs" / "from-tensorflow-1.md").read_text()
RECORDED = dict(np.load(TESTS / "recorded" / "wrappers_tf1.npz"))
LENGTHS = jnp.array([6, 4, 1])
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)

# The first cell of a line, and the recordings that it is held against.
COMPARED = {
    "BasicRNNCell(num_units)": ["tf1_elman"],
    "BasicLSTMCell(num_units)": ["tf1_basic_lstm"],
    "LSTMCell(num_units, use_peepholes, num_proj, ...)": [
        "tf1_lstm_peepholes_tanh",
        "tf1_lstm_projection",
    ],
    "CoupledInputForgetGateLSTMCell": ["tf1_coupled"],
    "LayerNormBasicLSTMCell": ["tf1_layer_norm"],
    "GRUCell(num_units)": ["tf1_gru"],
    "GRUBlockCell, LSTMBlockCell": ["tf1_gru_block", "tf1_lstm_block"],
    "MultiRNNCell([a, b])": ["checkpoints/multi_gru_and_rnn"],
    "UGRNNCell": ["tf1_ugrnn"],
    "IntersectionRNNCell": ["tf1_intersection"],
    "NASCell": ["tf1_nas", "addons_nas"],
    "PhasedLSTMCell": ["tf1_phased"],
    "Conv2DLSTMCell": ["tf1_conv_lstm"],
    "GLSTMCell": ["tf1_grouped"],
    "Grid2LSTMCell": ["tf1_grid2"],
    "IndRNNCell, IndyLSTMCell, IndyGRUCell": [
        "tf1_indrnn",
        "tf1_indy_lstm",
        "tf1_indy_gru",
    ],
    "SRUCell": ["tf1_sru"],
    "forget_bias=1.0": ["tf1_basic_lstm"],
    "state_is_tuple=True": ["tf1_basic_lstm"],
    "activation=tf.nn.relu": ["checkpoints/lstm_with_relu"],
    "cell.zero_state(batch, dtype)": ["static", "raw"],
    "output, state = cell(x, state)": ["tf1_basic_lstm"],
    "dynamic_rnn(cell, xs)": ["tf1_basic_lstm"],
    "static_rnn(cell, list_of_xs)": ["static"],
    "bidirectional_dynamic_rnn(fw, bw, xs)": ["bidirectional"],
    "stack_bidirectional_dynamic_rnn": ["checkpoints/stack_bidirectional_gru"],
    "raw_rnn(cell, loop_fn)": ["raw"],
    "sequence_length=lengths": ["tf1_basic_lstm"],
    "initial_state=state": ["tf1_basic_lstm"],
    "initial_state=cell.zero_state(...)": ["static"],
    "ResidualWrapper(cell)": ["residual"],
    "ResidualWrapper(cell, residual_fn)": ["residual_projected"],
    "HighwayWrapper(cell)": ["highway"],
    "AttentionCellWrapper(cell, attn_length)": ["attention_window"],
    "EmbeddingWrapper(cell, classes, size)": ["embedded"],
    "InputProjectionWrapper(cell, n)": ["projected"],
    "OutputProjectionWrapper(cell, n)": ["projected"],
    "FusedRNNCellAdaptor, TimeReversedFusedRNN": ["backwards"],
    "tf.sequence_mask(lengths, 40)": ["sequences"],
    "tf.boolean_mask(xs, mask)": ["sequences"],
    "tf.reverse_sequence(xs, lengths, 1, 0)": ["sequences"],
    "tf.nn.embedding_lookup(table, ids)": ["sequences"],
    'partition_strategy="div"': ["sequences"],
    "max_norm=1.0": ["sequences"],
    "TrainingHelper": ["scheduled_0"],
    "GreedyEmbeddingHelper(table, start, end)": ["greedy"],
    "BeamSearchDecoder": ["beam"],
    "length_penalty_weight=0.6": ["length"],
    "dynamic_decode with a batch": ["greedy"],
    "BahdanauAttention in AttentionWrapper": ["bahdanau"],
    "LuongAttention in AttentionWrapper": ["luong"],
    "sequence_loss(logits, targets, weights)": ["sequences"],
    "ScheduledOutputTrainingHelper": [
        "scheduled_50",
        "scheduled_100",
        "scheduled_auxiliary",
    ],
    "InferenceHelper(sample_fn, ..., end_fn, next_inputs_fn)": ["inference"],
    "coverage_penalty_weight=0.3": ["coverage"],
    "tile_batch(state, 3)": ["tile_and_gather"],
    "gather_tree(ids, parents, ...)": ["tile_and_gather"],
    "BahdanauAttention(normalize=True)": ["bahdanau_scaled"],
    "LuongAttention(scale=True)": ["luong_scaled"],
    "BahdanauMonotonicAttention": [
        "bahdanau_monotonic_parallel",
        "bahdanau_monotonic_parallel_scaled",
        "bahdanau_monotonic_hard",
        "bahdanau_monotonic_hard_scaled",
    ],
    'LuongMonotonicAttention(mode="hard")': [
        "luong_monotonic_parallel",
        "luong_monotonic_parallel_scaled",
        "luong_monotonic_hard",
        "luong_monotonic_hard_scaled",
    ],
    "alignment_history=True": ["bahdanau", "bahdanau_scaled"],
}


def rows():
    """The first and the last cell of each line that has code of ours."""
    for table in re.findall(
        r"\| TensorFlow 1 \| rnnjax .*\| checked \|\n\|[-|]*\n((?:\|.*\n)+)", PAGE
    ):
        for line in table.splitlines():
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            yield cells[0].replace("`", ""), cells[-1]


def test_every_table_says_of_each_line_whether_it_is_checked():
    assert PAGE.count("| TensorFlow 1 | rnnjax |") == PAGE.count("| checked |\n")
    marks = dict(rows())
    assert all(marks.values())
    assert {theirs for theirs, mark in marks.items() if mark == "✓"} == set(COMPARED)


def test_what_a_line_is_held_against_was_recorded_and_is_compared():
    there = {name.split("/")[0] for name in RECORDED}
    compared = set(test_recorded.ANSWERS)
    compared |= {
        f"{kind}_{variant}"
        for kind in test_alignment.SCORES
        for variant in test_alignment.VARIANTS
    }
    compared |= set(OURS) | {"tile_and_gather", "raw"}
    # In the tests of sequences and of decoding.
    compared |= {"sequences", "greedy", "beam", "length", "coverage", "inference"}
    compared |= {f"scheduled_{name}" for name in ("0", "50", "100", "auxiliary")}
    assert there == compared
    folder = TESTS / "recorded" / "checkpoints"
    checkpoints = {f"checkpoints/{path.stem}" for path in folder.glob("*.npz")}
    named = {name for names in COMPARED.values() for name in names}
    assert named <= compared | checkpoints | set(test_libraries.CASES)


def values_of(name):
    return {
        key.removeprefix(name + "/"): value
        for key, value in RECORDED.items()
        if key.startswith(name + "/")
    }


def elman(values, name):
    kernel, bias = values[name + ".kernel"], values[name + ".bias"]
    inputs = len(kernel) - kernel.shape[1]
    return rnnjax.ElmanParams(kernel[:inputs], kernel[inputs:], bias)


def dense(values, name):
    return rnnjax.DenseParams(values[name + ".kernel"], values[name + ".bias"])


def projected(values):
    outer = "rnn.output_projection_wrapper"
    inner = outer + ".input_projection_wrapper"
    cell = elman(values, inner + ".basic_rnn_cell")
    return dense(values, inner), cell, dense(values, outer)


def embedded(values):
    name = "rnn.embedding_wrapper."
    return values[name + "embedding"], elman(values, name + "basic_rnn_cell")


# Our cell, its params from TensorFlow's variables, and h within its carry.
OURS = {
    "static": (
        rnnjax.elman(3, 4),
        lambda v: elman(v, "rnn.basic_rnn_cell"),
        lambda carry: carry,
    ),
    "residual": (
        rnnjax.residual(rnnjax.elman(3, 3)),
        lambda v: elman(v, "rnn.basic_rnn_cell"),
        lambda carry: carry,
    ),
    "residual_projected": (
        rnnjax.parallel(rnnjax.elman(3, 4), rnnjax.dense(3, 4), merge=jnp.add),
        lambda v: (elman(v, "rnn.basic_rnn_cell"), dense(v, "rnn.skip")),
        lambda carry: carry[0],
    ),
    "projected": (
        rnnjax.stack(rnnjax.dense(3, 5), rnnjax.elman(5, 4), rnnjax.dense(4, 2)),
        projected,
        lambda carry: carry[1],
    ),
    "embedded": (
        rnnjax.stack(rnnjax.embedding(7, 3), rnnjax.elman(3, 4)),
        embedded,
        lambda carry: carry[1],
    ),
    "backwards": (
        rnnjax.reverse(rnnjax.elman(3, 4)),
        lambda v: elman(v, "rnn.basic_rnn_cell"),
        lambda carry: carry,
    ),
}


@pytest.mark.parametrize("name", OURS)
def test_answers_of_tensorflow_1(name):
    cell, params_of, h_of = OURS[name]
    found = values_of(name)
    xs = np.random.RandomState(1).normal(size=(3, 6, 3))
    if name == "embedded":
        xs = np.random.RandomState(18).randint(0, 7, (3, 6))

    def loss(params):
        carry, ys = rnnjax.unroll(cell, params, xs, lengths=LENGTHS)
        return (ys * found["weights"]).sum(), (h_of(carry), ys)

    grads, (h, ys) = jax.jit(jax.grad(loss, has_aux=True))(params_of(found))
    close(ys, found["outputs"])
    close(h, found["h"])
    by = {k[2:]: v for k, v in found.items() if k.startswith("d_")}
    jax.tree.map(close, grads, params_of(by))


def test_a_raw_loop():
    found, cell = values_of("raw"), rnnjax.elman(3, 4)
    xs = np.random.RandomState(1).normal(size=(3, 6, 3))

    def loss(params, xs):
        def run(x, length):
            def follow(t, carry, y, state):
                return rnnjax.Next(y[:3], carry, 2 * y, t + 1 >= length, state)

            return rnnjax.raw_unroll(
                cell, params, jnp.zeros(4), x, follow, steps=6, stop_early=False
            )

        raw = jax.vmap(run)(xs[:, 0], LENGTHS)
        return (raw.emits * found["weights"]).sum(), raw

    params = elman(found, "rnn.basic_rnn_cell")
    grads, raw = jax.jit(jax.grad(loss, (0, 1), has_aux=True))(params, xs)
    close(raw.emits, found["outputs"])
    close(raw.carry, found["h"])
    by = {k[2:]: v for k, v in found.items() if k.startswith("d_")}
    jax.tree.map(close, grads, (elman(by, "rnn.basic_rnn_cell"), by["xs"]))


def test_tiling_and_gathering():
    found = values_of("tile_and_gather")
    tiled = jax.tree.map(lambda a: jnp.repeat(a, 3, axis=0), found["values"])
    np.testing.assert_array_equal(tiled, found["tiled"])
    (ids, parents, tree) = (found[k][:, 0] for k in ("ids", "parents", "tree"))
    gathered = jax.lax.scan(
        lambda beam, step: (step[1][beam], step[0][beam]),
        jnp.arange(3, dtype=parents.dtype),
        (ids, parents),
        reverse=True,
    )[1]
    # TensorFlow writes end tokens after the first one.
    ended = np.cumsum(tree == 2, axis=0) - (tree == 2) > 0
    np.testing.assert_array_equal(np.where(ended, 2, gathered), tree)
    assert ended.any()
