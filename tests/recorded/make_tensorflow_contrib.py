"""Make the constants of the cells of ``tf.contrib``, with TensorFlow 1.15.

Contrib is in no later release. Needs Python 3.7:

    python3.7 -m venv tf1
    tf1/bin/pip install tensorflow==1.15.5 "protobuf<3.21"
    tf1/bin/python tests/recorded/make_tensorflow_contrib.py

Every case draws our params, converts them to TensorFlow's layout inside the graph and
differentiates by ours: what is stored is in our letters, outputs and gradients are
TensorFlow's. Ragged lengths and carries that are not zero are part of every case.
"""

# pyright: reportMissingImports=false, reportMissingModuleSource=false
import os

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import recorded
import tensorflow as tf
from recorded import BATCH, LENGTHS, TIME
from tensorflow.contrib import grid_rnn, rnn

INPUTS, HIDDEN, PROJECTED, GROUPS = 2, 3, 2, 2
pair = rnn.LSTMStateTuple


def case(
    name, params, carry, run, inputs=INPUTS, space=(), dtype=np.float64, more=None
):
    """Store what ``run(params, xs, carry) -> (ys, carry)`` gives, and its gradients.

    ``more``: arrays that go in besides, by name; they are added to ``params``.
    """
    draw = recorded.drawer(name)
    arrays = recorded.given(draw, params, (*space, inputs), carry)
    arrays = {k: v.astype(dtype) for k, v in arrays.items()}
    arrays.update(more or {})
    with tf.Graph().as_default(), tf.Session() as session:
        given = {k: tf.constant(v) for k, v in arrays.items()}
        p = recorded.part(given, "params.")
        p.update({k: given[k] for k in more or {}})
        ys, last = run(p, given["xs"], recorded.part(given, "carry."))
        out = {"ys": ys}
        out.update({"last." + k: v for k, v in last.items()})
        weights = {
            k: draw(*v.shape.as_list()).astype(v.dtype.as_numpy_dtype)
            for k, v in out.items()
        }
        loss = tf.add_n([tf.reduce_sum(out[k] * weights[k]) for k in out])
        grads = {k: tf.gradients(loss, v)[0] for k, v in given.items()}
        assert None not in grads.values(), grads
        recorded.store(name, arrays, session.run(out), weights, session.run(grads))


def dynamic_rnn(cell, values, xs, state):
    """Run a cell in which these tensors stand in for the variables that it asks for.

    ``values``: by the end of each variable's name.
    """
    asked = set()

    def tensor(name, shape):
        (end,) = [end for end in values if ("/" + name).endswith("/" + end)]
        assert tuple(shape) == tuple(values[end].shape.as_list()), (name, shape)
        asked.add(end)
        return values[end]

    def instead(getter, name, shape=None, **kwargs):
        del getter, kwargs
        return tensor(name, shape)

    def add_variable(name, shape, **kwargs):
        del kwargs
        return tensor(name, shape)

    # Most of contrib asks the scope for its variables, cells that are layers do not.
    cell.add_variable = cell.add_weight = add_variable
    with tf.variable_scope("", custom_getter=instead):
        ys, last = tf.nn.dynamic_rnn(cell, xs, LENGTHS, initial_state=state)
    assert asked == set(values), set(values) - asked
    return ys, last


def gates(array, order):
    """Reorder the blocks of the last axis."""
    blocks = tf.split(array, len(order), axis=-1)
    return tf.concat([blocks[i] for i in order], axis=-1)


def without(b, block, blocks):
    """A bias without the 1 that their cells add to one of its blocks at every call."""
    units = b.shape.as_list()[-1] // blocks
    ones = tf.one_hot(block, blocks, dtype=b.dtype)
    return b - tf.reshape(tf.tile(ones[:, None], [1, units]), [-1])


def rows(p):
    return tf.concat([p["w_ih"], p["w_hh"]], axis=0)


# Ours i f g o, theirs i j f o; and they add the forget bias at every call.
I_J_F_O = [0, 2, 1, 3]


def lstm_bias(b):
    return gates(without(b, 1, 4), I_J_F_O)


def block_lstm(p, xs, carry):
    values = {"kernel": gates(rows(p), I_J_F_O), "bias": lstm_bias(p["b"])}
    cell = rnn.LSTMBlockCell(HIDDEN)
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def block_gru(p, xs, carry):
    two, kernel = 2 * HIDDEN, rows(p)
    values = {
        "gates/kernel": kernel[:, :two],
        "gates/bias": p["b"][:two],
        "candidate/kernel": kernel[:, two:],
        "candidate/bias": p["b"][two:],
    }
    ys, h = dynamic_rnn(rnn.GRUBlockCellV2(HIDDEN), values, xs, carry["h"])
    return ys, {"h": h}


def nas(p, xs, carry):
    values = {"kernel": p["w_ih"], "recurrent_kernel": p["w_hh"], "bias": p["b"]}
    cell = rnn.NASCell(HIDDEN, use_bias=True, dtype=tf.float64)
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def convolutional(p, xs, carry):
    # Rows of the input and of the state are joined along their features.
    cell = rnn.Conv2DLSTMCell(
        input_shape=[5, 4, INPUTS], output_channels=HIDDEN, kernel_shape=[3, 2]
    )
    kernel = tf.concat([p["w_ih"], p["w_hh"]], axis=2)
    values = {"kernel": gates(kernel, I_J_F_O), "biases": lstm_bias(p["b"])}
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def coupled(p, xs, carry):
    # Ours f g o, theirs j f o.
    cell = rnn.CoupledInputForgetGateLSTMCell(
        HIDDEN, use_peepholes=True, num_proj=PROJECTED, proj_clip=0.3
    )
    values = {
        "W_0": gates(rows(p), [1, 0, 2]),
        "B": gates(without(p["b"], 0, 3), [1, 0, 2]),
        "W_F_diag": p["peepholes"][0],
        "W_O_diag": p["peepholes"][1],
        "W_P_0": p["w_proj"],
    }
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def layer_norm(p, xs, carry):
    # Their b is added after each normalisation and called beta.
    cell = rnn.LayerNormBasicLSTMCell(HIDDEN)
    values = {"kernel": gates(rows(p), I_J_F_O)}
    beta, gain = tf.split(without(p["b"], 1, 4), 4), tf.split(p["gain_ih"], 4)
    for i, name in enumerate(["input", "forget", "transform", "output"]):
        values[name + "/gamma"], values[name + "/beta"] = gain[i], beta[i]
    values["state/gamma"], values["state/beta"] = p["gain_c"], p["b_c"]
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def ugrnn(p, xs, carry):
    values = {"kernel": rows(p), "bias": without(p["b"], 0, 2)}
    ys, h = dynamic_rnn(rnn.UGRNNCell(HIDDEN), values, xs, carry["h"])
    return ys, {"h": h}


def intersection(p, xs, carry):
    values = {"kernel": rows(p), "bias": without(without(p["b"], 0, 4), 2, 4)}
    ys, h = dynamic_rnn(rnn.IntersectionRNNCell(HIDDEN), values, xs, carry["h"])
    return ys, {"h": h}


def phased(p, xs, carry):
    # Full matrices for peepholes there, rows here: theirs are diagonal.
    cell = rnn.PhasedLSTMCell(HIDDEN, use_peepholes=True, trainable_ratio_on=False)
    i, f, g, o = tf.split(rows(p), 4, axis=1)
    b_i, b_f, b_g, b_o = tf.split(p["b"], 4)
    peep_i, peep_f, peep_o = (tf.matrix_diag(a) for a in tf.unstack(p["peepholes"]))
    peep = tf.concat([peep_i, peep_f], axis=1)
    values = {
        "mask_gates/kernel": tf.concat([tf.concat([i, f], axis=1), peep], axis=0),
        "mask_gates/bias": tf.concat([b_i, b_f], axis=0),
        "new_input/kernel": g,
        "new_input/bias": b_g,
        "output_gate/kernel": tf.concat([o, peep_o], axis=0),
        "output_gate/bias": b_o,
        "period": tf.exp(p["log_period"]),
        "phase": p["shift"],
        "ratio_on": tf.fill([HIDDEN], 0.3),
    }
    values["period"].initial_value = None  # they ask a variable for it
    state = pair(carry["c"], carry["h"])
    ys, last = dynamic_rnn(cell, values, (p["times"][:, :, None], xs), state)
    return ys, {"c": last.c, "h": last.h}


def grouped(p, xs, carry):
    # One matrix for each group, one bias for each gate.
    cell = rnn.GLSTMCell(2 * HIDDEN, number_of_groups=GROUPS)
    kernels = gates(tf.concat([p["w_ih"], p["w_hh"]], axis=1), I_J_F_O)
    b = tf.transpose(tf.reshape(p["b"], [GROUPS, 4, HIDDEN]), [1, 0, 2])
    b = tf.split(lstm_bias(tf.reshape(b, [-1])), 4)
    values = {f"bias_{gate}": b[n] for n, gate in enumerate("ijfo")}
    for n in range(GROUPS):
        values[f"group{n}/kernel"] = kernels[n]
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def grid(make):
    def run(p, xs, carry):
        # Dimension 0 is depth, 1 is time; rows of kernels in this order too. Theirs is
        # one block: depth starts at every step from the input, by c and by h.
        cell, (w_c, w_h) = make(), tf.split(p["w_in"], 2, axis=1)
        values = {"project_c_0": w_c, "project_m_0": w_h}
        for dimension, ours in enumerate([1, 0]):
            of_time, of_depth = tf.split(p["w"][0, ours], 2)
            kernel = gates(tf.concat([of_depth, of_time], axis=0), I_J_F_O)
            end = f"cell_{dimension}/lstm_cell/"
            values[end + "kernel"] = kernel
            values[end + "bias"] = lstm_bias(p["b"][0, ours])
        c, h = carry["c"][:, 0], carry["h"][:, 0]
        unread = pair(tf.zeros_like(c), tf.zeros_like(h))
        (ys,), (_, last) = dynamic_rnn(cell, values, xs, (unread, pair(c, h)))
        return ys, {"c": last.c[:, None], "h": last.h[:, None]}

    return run


def independent(p, xs, carry):
    values = {"kernel_w": p["w_ih"], "kernel_u": p["u"], "bias": p["b"]}
    cell = rnn.IndRNNCell(HIDDEN, dtype=tf.float64)
    ys, h = dynamic_rnn(cell, values, xs, carry["h"])
    return ys, {"h": h}


def independent_lstm(p, xs, carry):
    u = tf.reshape(p["u"], [1, -1])
    values = {
        "kernel_w": gates(p["w_ih"], I_J_F_O),
        "kernel_u": gates(u, I_J_F_O),
        "bias": lstm_bias(p["b"]),
    }
    cell = rnn.IndyLSTMCell(HIDDEN, dtype=tf.float64)
    ys, last = dynamic_rnn(cell, values, xs, pair(carry["c"], carry["h"]))
    return ys, {"c": last.c, "h": last.h}


def independent_gru(p, xs, carry):
    two, u = 2 * HIDDEN, tf.reshape(p["u"], [1, -1])
    values = {
        "gates/kernel_w": p["w_ih"][:, :two],
        "gates/kernel_u": u[:, :two],
        "gates/bias": p["b"][:two],
        "candidate/kernel": p["w_ih"][:, two:],
        "candidate/kernel_u": u[:, two:],
        "candidate/bias": p["b"][two:],
    }
    cell = rnn.IndyGRUCell(HIDDEN, dtype=tf.float64)
    ys, h = dynamic_rnn(cell, values, xs, carry["h"])
    return ys, {"h": h}


def simple(p, xs, carry):
    values = {"kernel": p["w"], "bias": p["b"]}
    cell = rnn.SRUCell(HIDDEN, dtype=tf.float64)
    ys, c = dynamic_rnn(cell, values, xs, carry["c"])
    return ys, {"c": c}


def shapes(blocks, width=HIDDEN, inputs=INPUTS):
    columns = blocks * HIDDEN
    return {"w_ih": (inputs, columns), "w_hh": (width, columns), "b": (columns,)}


def with_more(params, **more):
    params.update(more)
    return params


def main():
    h, c = {"h": (HIDDEN,)}, {"c": (HIDDEN,)}
    ch = {"c": (HIDDEN,), "h": (HIDDEN,)}
    single = {"dtype": np.float32}  # all that the fused kernels are compiled for
    case("tf1_lstm_block", shapes(4), ch, block_lstm, **single)
    case("tf1_gru_block", shapes(3), h, block_gru, **single)
    case("tf1_nas", shapes(8), ch, nas)
    params = {
        "w_ih": (3, 2, INPUTS, 4 * HIDDEN),
        "w_hh": (3, 2, HIDDEN, 4 * HIDDEN),
        "b": (4 * HIDDEN,),
    }
    carry = {"c": (5, 4, HIDDEN), "h": (5, 4, HIDDEN)}
    case("tf1_conv_lstm", params, carry, convolutional, space=(5, 4))
    params = with_more(
        shapes(3, PROJECTED), peepholes=(2, HIDDEN), w_proj=(HIDDEN, PROJECTED)
    )
    case("tf1_coupled", params, {"c": (HIDDEN,), "h": (PROJECTED,)}, coupled)
    norm = {"gain_ih": (4 * HIDDEN,), "gain_c": (HIDDEN,), "b_c": (HIDDEN,)}
    case("tf1_layer_norm", with_more(shapes(4), **norm), ch, layer_norm)
    case("tf1_ugrnn", shapes(2), h, ugrnn)
    case("tf1_intersection", shapes(4, inputs=HIDDEN), h, intersection, inputs=HIDDEN)

    params = with_more(
        shapes(4), peepholes=(3, HIDDEN), log_period=(HIDDEN,), shift=(HIDDEN,)
    )
    draw = recorded.drawer("times")
    times = np.cumsum(np.abs(draw(BATCH, TIME)), axis=1).astype(np.float32)
    given = {"more": {"times": times}, "dtype": np.float32}  # their oscillation's
    case("tf1_phased", params, ch, phased, **given)

    each = {
        "w_ih": (GROUPS, INPUTS, 4 * HIDDEN),
        "w_hh": (GROUPS, HIDDEN, 4 * HIDDEN),
        "b": (GROUPS, 4 * HIDDEN),
    }
    both = {"c": (GROUPS * HIDDEN,), "h": (GROUPS * HIDDEN,)}
    case("tf1_grouped", each, both, grouped, inputs=GROUPS * INPUTS)

    params = {
        "w_in": (INPUTS, 2 * HIDDEN),
        "w": (1, 2, 2 * HIDDEN, 4 * HIDDEN),
        "b": (1, 2, 4 * HIDDEN),
    }
    layer = {"c": (1, HIDDEN), "h": (1, HIDDEN)}
    alike = {"num_dims": 2, "input_dims": 0, "output_dims": 0, "priority_dims": None}
    alike.update(tied=False, non_recurrent_dims=None)
    case("tf1_grid", params, layer, grid(lambda: grid_rnn.GridRNNCell(HIDDEN, **alike)))
    case("tf1_grid2", params, layer, grid(lambda: grid_rnn.Grid2LSTMCell(HIDDEN)))

    def vectors(n):
        columns = n * HIDDEN
        return {"w_ih": (INPUTS, columns), "u": (n, HIDDEN), "b": (columns,)}

    case("tf1_indrnn", vectors(1), h, independent)
    case("tf1_indy_lstm", vectors(4), ch, independent_lstm)
    case("tf1_indy_gru", vectors(3), h, independent_gru)
    params = {"w": (INPUTS, 4 * HIDDEN), "b": (2 * HIDDEN,)}
    case("tf1_sru", params, c, simple)


if __name__ == "__main__":
    main()
