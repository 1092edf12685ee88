"""What TensorFlow 1.15 itself answers, written to ``wrappers_tf1.npz`` beside it.

Run it where the real thing installs, with Python 3.7:

    python3.7 -m venv tf1
    tf1/bin/pip install tensorflow==1.15.5 "protobuf<3.21"
    tf1/bin/python tests/recorded/wrappers_tf1.py

Weights are drawn here and saved with the answers, so that the tests need no TensorFlow.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
# pyright: reportCallIssue=false
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
            for x, gradient in inputs.items():
                results["d_" + x] = tf.gradients(loss, gradient)[0]
            for variable in variables:
                results["d_" + plain(variable)] = tf.gradients(loss, variable)[0]
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
        "loss": seq2seq.sequence_loss(
            tf.constant(logits), targets, tf.constant(weights)
        ),
        "loss_each": seq2seq.sequence_loss(
            logits, targets, weights, average_across_batch=False
        ),
    }
    return results, {}


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
answer("bahdanau", memory(seq2seq.BahdanauAttention))
answer("luong", memory(seq2seq.LuongAttention))
answer("bidirectional", bidirectional)
answer("sequences", sequences)
answer("greedy", decode(0))
answer("beam", decode(3))
target = pathlib.Path(__file__).with_suffix(".npz")
np.savez_compressed(target, **SAVED)
for key, value in SAVED.items():
    print(key, value.shape, value.dtype)
