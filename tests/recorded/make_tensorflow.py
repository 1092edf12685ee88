"""Make the constants that the cells are held against, with TensorFlow 2.15.

TensorFlow 2.15 still carries the code of TensorFlow 1 under ``tf.compat.v1``. Needs
Python 3.11:

    python3.11 -m venv tf
    tf/bin/pip install tensorflow-cpu==2.15.1
    tf/bin/pip install --no-deps tensorflow-addons==0.23.0 "typeguard<3"
    tf/bin/python tests/recorded/make_tensorflow.py

Every case draws our params, converts them to TensorFlow's layout inside the graph and
differentiates by ours: what is stored is in our letters, outputs and gradients are
TensorFlow's. Ragged lengths and carries that are not zero are part of every case.
"""

import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import recorded
import tensorflow as tf
import tensorflow_addons as tfa
from recorded import BATCH, LENGTHS, TIME

INPUTS, HIDDEN, PROJECTED = 2, 3, 2
v1 = tf.compat.v1


def case(name, params, xs_shape, carry, run):
    """Store what ``run(params, xs, carry) -> (ys, carry)`` gives, and its gradients."""
    draw = recorded.drawer(name)
    arrays = recorded.given(draw, params, xs_shape, carry)
    given = {k: tf.constant(v) for k, v in arrays.items()}
    with tf.GradientTape() as tape:
        tape.watch(list(given.values()))
        carry = recorded.part(given, "carry.")
        ys, last = run(recorded.part(given, "params."), given["xs"], carry)
        out = {"ys": ys} | {f"last.{k}": v for k, v in last.items()}
        weights = {k: draw(*v.shape) for k, v in out.items()}
        loss = tf.add_n([tf.reduce_sum(out[k] * weights[k]) for k in out])
    recorded.store(name, given, out, weights, tape.gradient(loss, given))


def fixed_variables(cell, *values):
    """Make a TensorFlow 1 cell use these tensors instead of variables of its own."""
    values = list(values)

    def add_weight(name, shape, **kwargs):
        del kwargs
        (value,) = [v for n, v in values if n == name]
        assert tuple(shape) == tuple(value.shape), (name, shape, value.shape)
        return value

    cell.add_weight = cell.add_variable = add_weight
    return cell


def dynamic_rnn(cell, xs, state):
    return v1.nn.dynamic_rnn(cell, xs, LENGTHS, initial_state=state)


def gates(array, order):
    """Reorder the blocks of the last axis."""
    blocks = tf.split(array, len(order), axis=-1)
    return tf.concat([blocks[i] for i in order], axis=-1)


def tf1_elman(p, xs, carry):
    cell = v1.nn.rnn_cell.BasicRNNCell(HIDDEN, dtype=tf.float64)
    kernel = tf.concat([p["w_ih"], p["w_hh"]], axis=0)
    fixed_variables(cell, ("kernel", kernel), ("bias", p["b"]))
    ys, h = dynamic_rnn(cell, xs, carry["h"])
    return ys, {"h": h}


def tf1_gru(p, xs, carry):
    cell = v1.nn.rnn_cell.GRUCell(HIDDEN, dtype=tf.float64)
    kernel = tf.concat([p["w_ih"], p["w_hh"]], axis=0)
    two = 2 * HIDDEN
    fixed_variables(
        cell,
        ("gates/kernel", kernel[:, :two]),
        ("gates/bias", p["b"][:two]),
        ("candidate/kernel", kernel[:, two:]),
        ("candidate/bias", p["b"][two:]),
    )
    ys, h = dynamic_rnn(cell, xs, carry["h"])
    return ys, {"h": h}


def tf1_lstm(make, extra=()):
    def run(p, xs, carry):
        cell = make()
        # Ours i f g o, theirs i j f o, and they add the forget bias at every call.
        ours = tf.concat([p["w_ih"], p["w_hh"]], axis=0)
        one = tf.concat([tf.zeros(2 * HIDDEN), tf.ones(HIDDEN), tf.zeros(HIDDEN)], 0)
        bias = gates(p["b"], [0, 2, 1, 3]) - tf.cast(one, tf.float64)
        values = [("kernel", gates(ours, [0, 2, 1, 3])), ("bias", bias)]
        if "peepholes" in extra:
            rows = dict(zip("ifo", tf.unstack(p["peepholes"]), strict=True))
            values += [(f"w_{gate}_diag", row) for gate, row in rows.items()]
        if "w_proj" in extra:
            values.append(("projection/kernel", p["w_proj"]))
        fixed_variables(cell, *values)
        state = v1.nn.rnn_cell.LSTMStateTuple(carry["c"], carry["h"])
        ys, last = dynamic_rnn(cell, xs, state)
        return ys, {"c": last.c, "h": last.h}

    return run


def keras_cells(make, build):
    """Step a Keras cell by hand, examples frozen where their length ends."""

    def run(p, xs, carry):
        cell = make()
        cell.build((None, *xs.shape[2:]))
        for name, value in build(p).items():
            owner, _, leaf = name.rpartition(".")
            target = getattr(cell, owner) if owner else cell
            object.__setattr__(target, leaf, value)
        names, states, ys = list(carry), list(carry.values()), []
        for t in range(TIME):
            y, after = cell(xs[:, t], states)
            valid = tf.reshape(t < LENGTHS, (BATCH,) + (1,) * (len(y.shape) - 1))
            states = [tf.where(valid, a, b) for a, b in zip(after, states, strict=True)]
            ys.append(tf.where(valid, y, tf.zeros_like(y)))
        return tf.stack(ys, axis=1), dict(zip(names, states, strict=True))

    return run


def lstm_shapes(width=HIDDEN):
    return {
        "w_ih": (INPUTS, 4 * HIDDEN),
        "w_hh": (width, 4 * HIDDEN),
        "b": (4 * HIDDEN,),
    }


def main():
    h = {"h": (HIDDEN,)}
    ch = {"c": (HIDDEN,), "h": (HIDDEN,)}
    matrices = {"w_ih": (INPUTS, HIDDEN), "w_hh": (HIDDEN, HIDDEN), "b": (HIDDEN,)}
    case("tf1_elman", matrices, (INPUTS,), h, tf1_elman)
    three = {"w_ih": (INPUTS, 9), "w_hh": (HIDDEN, 9), "b": (9,)}
    case("tf1_gru", three, (INPUTS,), h, tf1_gru)

    cells = v1.nn.rnn_cell
    basic = tf1_lstm(lambda: cells.BasicLSTMCell(HIDDEN, dtype=tf.float64))
    case("tf1_basic_lstm", lstm_shapes(), (INPUTS,), ch, basic)
    for activation in (tf.tanh, tf.nn.softsign):
        peephole = tf1_lstm(
            lambda activation=activation: cells.LSTMCell(
                HIDDEN,
                use_peepholes=True,
                cell_clip=0.5,
                activation=activation,
                dtype=tf.float64,
            ),
            ["peepholes"],
        )
        params = lstm_shapes() | {"peepholes": (3, HIDDEN)}
        name = f"tf1_lstm_peepholes_{activation.__name__}"
        case(name, params, (INPUTS,), ch, peephole)
    projected = tf1_lstm(
        lambda: cells.LSTMCell(
            HIDDEN,
            use_peepholes=True,
            cell_clip=0.8,
            num_proj=PROJECTED,
            proj_clip=0.3,
            dtype=tf.float64,
        ),
        ["peepholes", "w_proj"],
    )
    params = lstm_shapes(PROJECTED)
    params |= {"peepholes": (3, HIDDEN), "w_proj": (HIDDEN, PROJECTED)}
    carry = {"c": (HIDDEN,), "h": (PROJECTED,)}
    case("tf1_lstm_projection", params, (INPUTS,), carry, projected)

    names = ("kernel", "recurrent_kernel", "bias")

    def in_order(p):
        return dict(zip(names, (p["w_ih"], p["w_hh"], p["b"]), strict=True))

    nas = keras_cells(
        lambda: tfa.rnn.NASCell(HIDDEN, use_bias=True, dtype=tf.float64), in_order
    )
    eight = {"w_ih": (INPUTS, 24), "w_hh": (HIDDEN, 24), "b": (24,)}
    case("addons_nas", eight, (INPUTS,), ch, nas)

    norm = keras_cells(
        lambda: tfa.rnn.LayerNormSimpleRNNCell(HIDDEN, dtype=tf.float64),
        lambda p: in_order(p) | {"layernorm.gamma": p["gain"]},
    )
    case("addons_layer_norm_elman", matrices | {"gain": (HIDDEN,)}, (INPUTS,), h, norm)

    conv_lstm("1d", (5,), 3, 1, "same")
    conv_lstm("2d", (5, 4), (3, 2), 2, "valid")
    conv_lstm("3d", (3, 2, 3), 2, (1, 2, 1), "same")


def conv_lstm(suffix, space, kernel, strides, padding):
    features = 2
    layer = getattr(tf.keras.layers, f"ConvLSTM{suffix.upper()}")(
        features, kernel, strides=strides, padding=padding,
        recurrent_activation="sigmoid", dtype=tf.float64,
    )  # fmt: skip
    shape = layer.compute_output_shape((BATCH, TIME, *space, INPUTS))[1:]
    kernels = layer.cell.kernel_size
    params = {
        "w_ih": (*kernels, INPUTS, 4 * features),
        "w_hh": (*kernels, features, 4 * features),
        "b": (4 * features,),
    }

    def build(p):
        return {"kernel": p["w_ih"], "recurrent_kernel": p["w_hh"], "bias": p["b"]}

    run = keras_cells(lambda: layer.cell, build)

    # Keras orders its states h, c; the names come back in the order they went in.
    def swapped(p, xs, carry):
        return run(p, xs, {"h": carry["h"], "c": carry["c"]})

    carry = {"c": shape, "h": shape}
    case(f"keras_conv_lstm_{suffix}", params, (*space, INPUTS), carry, swapped)


if __name__ == "__main__":
    main()
