"""Record checkpoints of real TensorFlow 1 programs, with TensorFlow 2.15.

It runs where make_tensorflow.py does:

    tf/bin/python tests/recorded/make_tensorflow_checkpoints.py

Every file of checkpoints/ holds what a checkpoint of the program holds, the optimiser's
slots included, as ``variable.NAME``; the inputs ``xs`` with their ``lengths``; the
outputs ``ys``; and the gradients of the sum of ``ys * weight`` by the variables and by
``xs``, as ``grad.NAME`` and ``grad.xs``.
"""

import os
import pathlib
import tempfile

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

v1 = tf.compat.v1
v1.disable_v2_behavior()
cells = v1.nn.rnn_cell
BATCH, TIME, INPUTS, HIDDEN = 3, 5, 2, 3
LENGTHS = np.array([5, 0, 3])
FOLDER = pathlib.Path(__file__).parent / "checkpoints"


def program(name, build):
    """Run ``build(xs) -> ys`` in a graph of its own, save it and record both."""
    rng = np.random.default_rng(sum(map(ord, name)))
    arrays = {"xs": rng.normal(size=(BATCH, TIME, INPUTS)), "lengths": LENGTHS}
    with tf.Graph().as_default(), v1.Session() as session:
        xs = tf.constant(arrays["xs"])
        ys = build(xs)
        arrays["weight"] = rng.normal(size=[int(n) for n in ys.shape])
        loss = tf.reduce_sum(ys * arrays["weight"])
        variables = v1.trainable_variables()
        # A step of training, so that the checkpoint has an optimiser's slots too.
        train = v1.train.AdamOptimizer().minimize(loss)
        session.run(v1.global_variables_initializer())
        session.run(train)
        for variable in variables:
            session.run(variable.assign(rng.normal(size=variable.shape) * 0.7))
        gradients = dict(
            zip(
                ["xs", *(v.op.name for v in variables)],
                session.run(tf.gradients(loss, [xs, *variables])),
                strict=True,
            )
        )
        arrays["ys"] = session.run(ys)
        with tempfile.TemporaryDirectory() as folder:
            path = v1.train.Saver().save(session, os.path.join(folder, "model"))
            reader = v1.train.NewCheckpointReader(path)
            names = sorted(reader.get_variable_to_shape_map())
            arrays |= {f"variable.{n}": reader.get_tensor(n) for n in names}
    arrays |= {f"grad.{n}": g for n, g in gradients.items()}
    np.savez_compressed(FOLDER / f"{name}.npz", **arrays)
    print(name)


def dynamic(cell, xs):
    return v1.nn.dynamic_rnn(cell, xs, LENGTHS, dtype=tf.float64)[0]


def both(make, xs):
    (forward, backward), _ = v1.nn.bidirectional_dynamic_rnn(
        make(), make(), xs, LENGTHS, dtype=tf.float64
    )
    return tf.concat([forward, backward], -1)


def stacked_both(xs):
    # As contrib's stack_bidirectional_dynamic_rnn, which went with contrib.
    with v1.variable_scope("stack_bidirectional_rnn"):
        for layer in range(2):
            with v1.variable_scope(f"cell_{layer}"):
                xs = both(lambda: cells.GRUCell(HIDDEN), xs)
    return xs


def full_lstm():
    return cells.LSTMCell(
        HIDDEN, use_peepholes=True, cell_clip=0.8, num_proj=2, proj_clip=0.3
    )


def main():
    FOLDER.mkdir(exist_ok=True)
    several = cells.MultiRNNCell
    program("basic_lstm", lambda xs: dynamic(cells.BasicLSTMCell(HIDDEN), xs))
    program(
        "multi_lstm_with_everything",
        lambda xs: dynamic(several([full_lstm(), full_lstm()]), xs),
    )
    program(
        "lstm_with_relu",
        lambda xs: dynamic(
            cells.LSTMCell(
                HIDDEN, use_peepholes=True, forget_bias=0.5, activation=tf.nn.relu
            ),
            xs,
        ),
    )
    program(
        "multi_gru_and_rnn",
        lambda xs: dynamic(several([cells.GRUCell(4), cells.BasicRNNCell(HIDDEN)]), xs),
    )
    program(
        "bidirectional_lstm",
        lambda xs: both(lambda: cells.BasicLSTMCell(HIDDEN), xs),
    )
    program("stack_bidirectional_gru", stacked_both)


if __name__ == "__main__":
    main()
