"""What TensorFlow 1.15 itself answers, written to ``wrappers_tf1.npz`` beside it.

Run it where the real thing installs, with Python 3.7:

    python3.7 -m venv tf1
    tf1/bin/pip install tensorflow==1.15.5 "protobuf<3.21"
    tf1/bin/python tests/recorded/wrappers_tf1.py

Weights are drawn here and saved with the answers, so that the tests need no TensorFlow.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
# pyright: reportCallIssue=false
import functools
import pathlib

import numpy as np
import tensorflow as tf
from tensorflow.contrib import rnn, seq2seq

BATCH, TIME, INPUT = 3, 6, 3
LENGTHS = np.array([6, 4, 1], np.int32)
SAVED = {}


def draw(seed, *shape):
    return np.random.RandomState(seed).normal(size=shape)


def answer(name, build):
    """Run a graph of float64 with every variable drawn anew, save what it returns.

    ``build`` returns a dict of tensors and a list of those to differentiate the
    weighted sum of ``outputs`` by; variables are among them always.
    """
    with tf.Graph().as_default(), tf.Session() as session:
        with tf.variable_scope("", dtype=tf.float64):
            results, inputs = build()
        variables = tf.trainable_variables()
        session.run(tf.global_variables_initializer())
        for i, variable in enumerate(variables):
            session.run(variable.assign(0.5 * draw(100 + i, *variable.shape.as_list())))
        if "outputs" in results:
            outputs = results["outputs"]
            weights = draw(7, *outputs.shape.as_list())
            loss = tf.reduce_sum(outputs * weights)
            by = {**inputs, **{plain(variable): variable for variable in variables}}
            for name_of, tensor in by.items():
                # A hard choice has no gradient.
                gradient = tf.gradients(loss, tensor, unconnected_gradients="zero")
                results["d_" + name_of] = tf.convert_to_tensor(gradient[0])
            SAVED[name + "/weights"] = weights
        for variable in variables:
            results[plain(variable)] = variable
        values = session.run(results)
        for key, value in values.items():
            SAVED[name + "/" + key] = np.asarray(value)


def plain(variable):
    return variable.name[:-2].replace("/", ".")


def xs():
    return tf.constant(draw(1, BATCH, TIME, INPUT))


def attention_window():
    cell = rnn.AttentionCellWrapper(
        rnn.BasicLSTMCell(5, forget_bias=0.0), attn_length=3, attn_size=4
    )
    x = xs()
    ys, state = tf.nn.dynamic_rnn(cell, x, LENGTHS, dtype=tf.float64)
    (c, h), attention, window = state
    results = {"outputs": ys, "c": c, "h": h, "attention": attention, "window": window}
    return results, {"xs": x}


def highway():
    cell = rnn.HighwayWrapper(rnn.BasicRNNCell(INPUT))
    x = xs()
    ys, h = tf.nn.dynamic_rnn(cell, x, LENGTHS, dtype=tf.float64)
    return {"outputs": ys, "h": h}, {"xs": x}


def static():
    x = xs()
    ys, h = tf.nn.static_rnn(
        rnn.BasicRNNCell(4),
        tf.unstack(x, axis=1),
        dtype=tf.float64,
        sequence_length=LENGTHS,
    )
    return {"outputs": tf.stack(ys, 1), "h": h}, {"xs": x}


def raw():
    """Each output, doubled, is emitted; its first features are the next input."""
    x, cell = xs(), rnn.BasicRNNCell(4)

    def follow(time, y, state, loop_state):
        if y is None:
            state, emit, next_x = cell.zero_state(BATCH, tf.float64), None, x[:, 0]
            emit = tf.zeros([4], tf.float64)
        else:
            emit, next_x = 2 * y, y[:, :INPUT]
        return time >= LENGTHS, next_x, state, emit, loop_state

    emits, h, _ = tf.nn.raw_rnn(cell, follow)
    ys = tf.ensure_shape(tf.transpose(emits.stack(), [1, 0, 2]), [BATCH, TIME, 4])
    return {"outputs": ys, "h": h}, {"xs": x}


def wrapped(make, ids=False):
    def build():
        x = tf.constant(np.random.RandomState(18).randint(0, 7, (BATCH, TIME, 1)))
        x = x if ids else xs()
        ys, h = tf.nn.dynamic_rnn(make(), x, LENGTHS, dtype=tf.float64)
        return {"outputs": ys, "h": h}, {} if ids else {"xs": x}

    return build


def projected_residual():
    def add(x, y):
        return y + tf.layers.dense(x, 4, name="skip")

    return tf.nn.rnn_cell.ResidualWrapper(rnn.BasicRNNCell(4), add)


def projected():
    cell = rnn.InputProjectionWrapper(rnn.BasicRNNCell(4), 5)
    return rnn.OutputProjectionWrapper(cell, 2)


def backwards():
    x = xs()
    cell = rnn.FusedRNNCellAdaptor(rnn.BasicRNNCell(4), use_dynamic_rnn=True)
    cell = rnn.TimeReversedFusedRNN(cell)
    ys, h = cell(tf.transpose(x, [1, 0, 2]), sequence_length=LENGTHS, dtype=tf.float64)
    return {"outputs": tf.transpose(ys, [1, 0, 2]), "h": h}, {"xs": x}


def memory(mechanism):
    def build():
        source = tf.constant(draw(2, BATCH, 5, 4))
        x = xs()
        cell = seq2seq.AttentionWrapper(
            rnn.BasicRNNCell(4),
            mechanism(4, source, np.array([5, 2, 3]), dtype=tf.float64),
            attention_layer=tf.layers.Dense(4, tf.tanh, use_bias=False),
        )
        ys, state = tf.nn.dynamic_rnn(cell, x, LENGTHS, dtype=tf.float64)
        results = {
            "outputs": ys,
            "attention": state.attention,
            "h": state.cell_state,
            "alignments": state.alignments,
        }
        return results, {"xs": x, "memory": source}

    return build


def bidirectional():
    x = xs()
    cells = rnn.BasicLSTMCell(4, forget_bias=0.0), rnn.BasicLSTMCell(4, forget_bias=0.0)
    states = [
        rnn.LSTMStateTuple(
            tf.constant(draw(s, BATCH, 4)), tf.constant(draw(s + 1, BATCH, 4))
        )
        for s in (3, 5)
    ]
    (f, b), (last_f, last_b) = tf.nn.bidirectional_dynamic_rnn(
        *cells, x, LENGTHS, initial_state_fw=states[0], initial_state_bw=states[1]
    )
    results = {
        "outputs": tf.concat([f, b], 2),
        "c_fw": last_f.c,
        "h_fw": last_f.h,
        "c_bw": last_b.c,
        "h_bw": last_b.h,
    }
    return results, {"xs": x, "c0_fw": states[0].c, "h0_bw": states[1].h}


def sequences():
    ids = np.array([[0, 6, 3], [4, 5, 1]])
    table = 2 * draw(8, 7, 2)
    value = tf.constant(draw(9, 3, 5, 2))
    lengths = np.array([5, 2, 0])
    mask = draw(10, 3, 5) > 0
    logits = tf.constant(draw(11, 3, 5, 4))
    weights = tf.constant(np.abs(draw(12, 3, 5)))
    targets = tf.constant(np.random.RandomState(13).randint(0, 4, (3, 5)))

    def look_up(parts, partition, max_norm=None):
        return tf.nn.embedding_lookup(
            [tf.constant(part) for part in parts], ids, partition, max_norm=max_norm
        )

    results = {
        "mask": tf.sequence_mask(np.array([[1, 0], [3, 2]]), 4),
        "mask_no_maxlen": tf.sequence_mask(np.array([[1, 0], [3, 2]])),
        "boolean": tf.boolean_mask(value, mask),
        "boolean_mask": tf.constant(mask),
        "value": value,
        "reverse": tf.reverse_sequence(value, lengths, seq_axis=1, batch_axis=0),
        "ids": tf.constant(ids),
        "table": tf.constant(table),
        "mod": look_up([table[i::3] for i in range(3)], "mod"),
        "div": look_up(np.array_split(table, 3), "div"),
        "norm": look_up([table], "mod", 1.5),
        "logits": logits,
        "targets": targets,
        "loss_weights": weights,
        "loss": seq2seq.sequence_loss(logits, targets, weights),
        "loss_each": seq2seq.sequence_loss(
            logits, targets, weights, average_across_batch=False
        ),
    }
    return results, {}


def tile_and_gather():
    values = tf.constant(draw(15, BATCH, 2))
    # Steps in front, then the batch, then beams; the end token is 2.
    ids = np.array([[[4, 5, 3]], [[5, 2, 6]], [[1, 2, 4]], [[2, 3, 2]]], np.int32)
    parents = np.array([[[0, 0, 0]], [[1, 0, 2]], [[2, 1, 0]], [[2, 0, 1]]], np.int32)
    tree = seq2seq.gather_tree(ids, parents, np.array([4], np.int32), 2)
    results = {
        "values": values,
        "tiled": seq2seq.tile_batch(values, 3),
        "ids": tf.constant(ids),
        "parents": tf.constant(parents),
        "tree": tree,
    }
    return results, {}


def scheduled_outputs(probability, auxiliary=False):
    """An output is the next input, all of it or the part that is not auxiliary."""

    def build():
        x = xs()
        cell = rnn.OutputProjectionWrapper(rnn.BasicRNNCell(4), 2 if auxiliary else 3)
        given = {"seed": 3, "next_inputs_fn": tf.sin}
        if auxiliary:
            given["auxiliary_inputs"] = x[:, :, 2:]
        helper = seq2seq.ScheduledOutputTrainingHelper(
            x[:, :, :2] if auxiliary else x, LENGTHS, probability, **given
        )
        state = tf.constant(draw(16, BATCH, 4))
        decoder = seq2seq.BasicDecoder(cell, helper, state)
        found, h, _ = seq2seq.dynamic_decode(decoder, impute_finished=True)
        outputs = tf.ensure_shape(found.rnn_output, [BATCH, TIME, cell.output_size])
        coins = tf.cast(found.sample_id, tf.int32)
        results = {"outputs": outputs, "h": h, "coins": coins, "state": state}
        return results, {"xs": x, "h0": state}

    return build


def inference():
    """Outputs feed the cell until one of their features is below a bound."""
    cell = rnn.OutputProjectionWrapper(rnn.BasicRNNCell(4), 3)
    helper = seq2seq.InferenceHelper(
        sample_fn=lambda outputs: outputs,
        sample_shape=[3],
        sample_dtype=tf.float64,
        start_inputs=tf.constant(draw(17, BATCH, 3)),
        end_fn=lambda outputs: outputs[:, 2] > 0.78,
        next_inputs_fn=tf.sin,
    )
    state = tf.constant(draw(16, BATCH, 4))
    decoder = seq2seq.BasicDecoder(cell, helper, state)
    found, h, lengths = seq2seq.dynamic_decode(
        decoder, impute_finished=True, maximum_iterations=8
    )
    results = {"ys": found.rnn_output, "h": h, "lengths": lengths, "state": state}
    return results, {}


def penalties(length, coverage):
    """Beams of a cell with attention, scored by the length and what was attended to."""

    def build():
        beams, soon = 3, tf.constant([0.0, 0.0, 1.2, 0.0, 0.0])  # sequences end
        with tf.variable_scope("model", dtype=tf.float32):
            table = tf.get_variable("table", (5, 3))
            memory = tf.constant(draw(2, BATCH, 5, 4).astype(np.float32))
            mechanism = seq2seq.LuongAttention(
                4,
                seq2seq.tile_batch(memory, beams),
                seq2seq.tile_batch(np.array([5, 2, 3]), beams),
            )
            cell = seq2seq.AttentionWrapper(
                rnn.BasicRNNCell(4),
                mechanism,
                attention_layer=tf.layers.Dense(4, tf.tanh, use_bias=False),
            )
            state = tf.constant(draw(14, BATCH, 4).astype(np.float32))
            start = cell.zero_state(BATCH * beams, tf.float32)
            start = start.clone(cell_state=seq2seq.tile_batch(state, beams))
            decoder = seq2seq.BeamSearchDecoder(
                cell,
                table,
                np.ones(BATCH, np.int32),
                2,
                start,
                beams,
                tf.layers.Dense(5, lambda x: x + soon, name="logits"),
                length_penalty_weight=length,
                coverage_penalty_weight=coverage,
            )
            found, last, _ = seq2seq.dynamic_decode(decoder, maximum_iterations=12)
        results = {
            "tokens": found.predicted_ids,
            "lengths": last.lengths,
            "log_probs": last.log_probs,
            "scores": found.beam_search_decoder_output.scores[:, -1],
            "state": state,
            "memory": memory,
            "soon": soon,
        }
        return results, {}

    return build


def decode(beams):
    def build():
        with tf.variable_scope("model", dtype=tf.float32):
            table = tf.get_variable("table", (7, 3))
            cell = rnn.BasicRNNCell(5)
            dense = tf.layers.Dense(7, name="logits")
            state = tf.constant(draw(14, BATCH, 5).astype(np.float32))
            start = np.ones(BATCH, np.int32)
            if beams:
                decoder = seq2seq.BeamSearchDecoder(
                    cell,
                    table,
                    start,
                    2,
                    seq2seq.tile_batch(state, beams),
                    beams,
                    dense,
                )
            else:
                helper = seq2seq.GreedyEmbeddingHelper(table, start, 2)
                decoder = seq2seq.BasicDecoder(cell, helper, state, dense)
            found, last, lengths = seq2seq.dynamic_decode(decoder, maximum_iterations=6)
        results = {"lengths": lengths, "state": state}
        if beams:
            results["tokens"] = found.predicted_ids
            results["scores"] = last.log_probs
        else:
            results["tokens"] = found.sample_id
        return results, {}

    return build


answer("attention_window", attention_window)
answer("highway", highway)
answer("static", static)
answer("raw", raw)
residual = tf.nn.rnn_cell.ResidualWrapper
answer("residual", wrapped(lambda: residual(rnn.BasicRNNCell(INPUT))))
answer("residual_projected", wrapped(projected_residual))
answer("projected", wrapped(projected))
answer(
    "embedded", wrapped(lambda: rnn.EmbeddingWrapper(rnn.BasicRNNCell(4), 7, 3), True)
)
answer("backwards", backwards)
answer("bahdanau", memory(seq2seq.BahdanauAttention))
answer("luong", memory(seq2seq.LuongAttention))
bahdanau = functools.partial(seq2seq.BahdanauAttention, normalize=True)
answer("bahdanau_scaled", memory(bahdanau))
answer("luong_scaled", memory(functools.partial(seq2seq.LuongAttention, scale=True)))
# Mode "recursive" is the same function as "parallel" and refuses float64.
for mode in ("parallel", "hard"):
    for kind, scaled in (("Bahdanau", "normalize"), ("Luong", "scale")):
        mechanism = getattr(seq2seq, kind + "MonotonicAttention")
        for on in (False, True):
            name = "_".join([kind.lower(), "monotonic", mode] + ["scaled"] * on)
            # In float64 the bias, too, has to be told so.
            given = {"mode": mode, scaled: on, "score_bias_init": np.float64(0)}
            answer(name, memory(functools.partial(mechanism, **given)))
answer("bidirectional", bidirectional)
answer("sequences", sequences)
answer("greedy", decode(0))
answer("beam", decode(3))
answer("tile_and_gather", tile_and_gather)
for percent in (0, 50, 100):
    answer(f"scheduled_{percent}", scheduled_outputs(percent / 100))
answer("scheduled_auxiliary", scheduled_outputs(1.0, auxiliary=True))
answer("inference", inference)
answer("length", penalties(0.8, 0.0))
answer("coverage", penalties(0.8, 0.3))
target = pathlib.Path(__file__).with_suffix(".npz")
np.savez_compressed(target, **SAVED)
for key, value in SAVED.items():
    print(key, value.shape, value.dtype)
