"""The tables of the pages for those who come from another library, in value.

The right column of each line runs with the weights that the left one has in its own
library, on the same random inputs, and must give the same numbers. Lines that no
numbers can compare are listed with the reason, so that a new line cannot be forgotten.
"""

import functools
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import real_libraries as libraries

import rnnjax
from rnnjax import cells, interop

pytestmark = pytest.mark.float32

DOCS = pathlib.Path(__file__).parents[2] / "docs"
NAMES = {
    "torch": "torch",
    "keras": "Keras",
    "flax": "Flax",
    "haiku": "Haiku",
    "equinox": "Equinox",
}
BATCH, TIME, INPUTS, HIDDEN = 3, 7, 5, 8
LENGTHS: Any = np.array([7, 3, 5])


def random(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


XS: Any = random(BATCH, TIME, INPUTS)
H: Any = random(BATCH, HIDDEN, seed=1)
C: Any = random(BATCH, HIDDEN, seed=2)
VALID = np.arange(TIME) < LENGTHS[:, None]


class Row(NamedTuple):
    """A line of a table: its codes, and the names of its page, with random values."""

    theirs: list[str]
    ours: list[str]
    names: dict[str, Any]

    def run(self, params: Any = None, **names: Any) -> Any:
        """What our column's first code gives, with other params and values."""
        given = self.names | names
        if params is not None:
            given["params"] = params
        return eval(self.ours[0], given)


def close(found, expected, tolerance=1e-5):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def unrolled(cell, params, xs=XS, **options):
    return rnnjax.unroll(cell, params, jnp.asarray(xs), **options)


# torch ------------------------------------------------------------------------------


def torch_module(code):
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    module = eval(code, {"nn": torch.nn})
    module.batch_first = True
    return torch, module.eval()


def torch_params(module, **options):
    cell, params, _ = interop.from_torch(module.state_dict(), **options)
    return cell, params


def numpy(*tensors):
    arrays = [t.detach().float().numpy() for t in tensors]
    return arrays[0] if len(arrays) == 1 else arrays


def torch_layer(row):
    code, cell = row.theirs[0], row.run()
    if not code.startswith("nn."):  # two layers of two directions
        code = "nn.LSTM(5, 8, 2, bidirectional=True)"
    torch, module = torch_module(code)
    relu: Any = {"activation": jax.nn.relu} if "relu" in code else {}
    found, params = torch_params(module, **relu)
    if "dropout" in code:  # a layer without params, between the two
        first, _, second = cell.spec.cells
        assert found == rnnjax.stack(first, second)
        params = (params[0], (), params[1])
    else:
        assert found == cell
    with libraries.quietly():
        close(unrolled(cell, params)[1], numpy(module(torch.tensor(XS))[0]))


def torch_cell(row):
    torch, module = torch_module(row.theirs[0])
    _, params = torch_params(module)
    h, c = numpy(*module(torch.tensor(XS[:, 0]), (torch.tensor(H), torch.tensor(C))))
    carry, y = jax.vmap(row.run(), (None, 0, 0))(
        params, rnnjax.LSTMCarry(C, H), XS[:, 0]
    )
    close((carry.c, carry.h, y), (c, h, h))


def torch_embedding(row):
    torch, module = torch_module(row.theirs[0])
    ids = np.arange(6).reshape(2, 3)
    ys = unrolled(row.run(), jnp.asarray(numpy(module.weight)), ids)[1]
    close(ys, numpy(module(torch.tensor(ids))))


def torch_linear(row):
    torch, module = torch_module(row.theirs[0])
    w, b = numpy(module.weight, module.bias)
    params = rnnjax.DenseParams(w=jnp.asarray(w.T), b=jnp.asarray(b))
    xs = random(2, 3, 8)
    close(unrolled(row.run(), params, xs)[1], numpy(module(torch.tensor(xs))))


def torch_lstm():
    torch, module = torch_module("nn.LSTM(5, 8)")
    return torch, module, torch_params(module)[1]


def torch_start(torch):
    return torch.tensor(H)[None], torch.tensor(C)[None]


def torch_run(row):
    torch, module, params = torch_lstm()
    out, (h, c) = module(torch.tensor(XS))
    carry, ys = row.run(params)
    close((ys, carry.h, carry.c), numpy(out, h[0], c[0]))


def torch_carry(row):
    torch, module, params = torch_lstm()
    out = module(torch.tensor(XS), torch_start(torch))[0]
    close(row.run(params, carry=rnnjax.LSTMCarry(C, H))[1], numpy(out))


def torch_last(row):
    torch, module, params = torch_lstm()
    _, (h, _) = module(torch.tensor(XS))
    close(row.run(carry=unrolled(row.names["cell"], params)[0]), numpy(h[-1]))


def torch_packed(torch, module):
    rnn = torch.nn.utils.rnn
    packed = rnn.pack_padded_sequence(
        torch.tensor(XS), torch.tensor(LENGTHS), True, enforce_sorted=False
    )
    out, (h, c) = module(packed)
    return numpy(rnn.pad_packed_sequence(out, True)[0]), numpy(h[0]), numpy(c[0])


def torch_lengths(row):
    torch, module, params = torch_lstm()
    carry, ys = row.run(params)
    close((ys, carry.h, carry.c), torch_packed(torch, module))


def torch_padding(row):
    torch, module, params = torch_lstm()
    ys = unrolled(row.names["cell"], params, lengths=LENGTHS)[1]
    close(row.run(ys=ys), torch_packed(torch, module)[0])


def torch_pad_sequence(row):
    torch = pytest.importorskip("torch")
    ragged = [torch.ones(3, 5), torch.ones(7, 5)]
    code = row.theirs[0].replace("list", "ragged")
    names = {"pad_sequence": torch.nn.utils.rnn.pad_sequence, "ragged": ragged}
    close(row.run()[0], eval(code, names))


def torch_step(row):
    torch, module = torch_module("nn.LSTMCell(5, 8)")
    h, c = numpy(*module(torch.tensor(XS[:, 0]), (torch.tensor(H), torch.tensor(C))))
    carry, y = row.run(torch_params(module)[1], carry=rnnjax.LSTMCarry(C, H))
    close((carry.c, carry.h, y), (c, h, h))


def torch_time_major(row):
    torch, module, params = torch_lstm()
    module.batch_first = False
    out, (h, _) = module(torch.tensor(XS.swapaxes(0, 1)))
    carry, ys = row.run(params)
    close((ys, carry.h), numpy(out, h[0]))


def torch_eval(row):
    torch, module, params = torch_lstm()
    close(row.run(params)[1], numpy(module.eval()(torch.tensor(XS))[0]))


def torch_detach(row):
    torch, module, params = torch_lstm()
    h, c = (a.requires_grad_() for a in torch_start(torch))
    out, _ = module(torch.tensor(XS), (h.detach(), c.detach()))
    out.sum().backward()
    assert h.grad is None

    def total(carry):
        carry = row.run(params, carry=carry)
        return unrolled(row.names["cell"], params, carry=carry)[1].sum()

    value, grads = jax.value_and_grad(total)(rnnjax.LSTMCarry(C, H))
    close(value, numpy(out.sum()), 1e-4)
    assert not any(np.any(grad) for grad in grads)


def torch_bfloat16(row):
    torch, module, params = torch_lstm()
    module = module.to(torch.bfloat16)
    out = numpy(module(torch.tensor(XS).bfloat16())[0])
    xs = XS.astype(jnp.bfloat16)
    carry, ys = unrolled(row.names["cell"], row.run(params), xs)
    assert ys.dtype == carry.c.dtype == jnp.bfloat16
    close(ys.astype(jnp.float32), out, 0.02)


# Keras ------------------------------------------------------------------------------


def keras_names():
    os.environ.setdefault("KERAS_BACKEND", "jax")
    keras = pytest.importorskip("keras")
    whole = {
        name: functools.partial(getattr(keras.layers, name), return_sequences=True)
        for name in ("LSTM", "GRU", "SimpleRNN", "ConvLSTM2D")
    }
    return keras, vars(keras.layers) | {"Sequential": keras.Sequential} | whole


def keras_layer(code, xs=XS):
    """A layer that gives all outputs, with random weights, and those by their path."""
    keras, names = keras_names()
    with libraries.quietly():
        layer = eval(code, names)
        if code.startswith("StackedRNNCells"):
            layer = keras.layers.RNN(layer, return_sequences=True)
        layer.build(xs.shape)
        for k, variable in enumerate(layer.trainable_weights):
            variable.assign(random(*variable.shape, seed=k) * 0.5)
        return layer, {v.path: np.asarray(v.value) for v in layer.trainable_weights}


def keras_run(layer, xs=XS, **options):
    with libraries.quietly():
        return np.asarray(layer(xs, **options))


def inside(cell):
    """Without what acts with a key alone, as theirs acts in training alone."""
    return cell.spec["cell"] if cell.spec.name == "with_dropout" else cell


def keras_row(row):
    cell = row.run()
    layer, weights = keras_layer(row.theirs[0])
    relu: Any = {"activation": jax.nn.relu} if "relu" in row.theirs[0] else {}
    found, params, _ = interop.from_keras(weights, **relu)
    if cell.spec.name == "reverse":
        assert found == cell.spec["cell"]
        # Theirs come in the order of the walk.
        close(unrolled(cell, params)[1][:, ::-1], keras_run(layer))
        return
    if "merge_mode" in row.theirs[0]:
        assert found == rnnjax.bidirectional(cell.spec["forward"])
    else:
        assert found == inside(cell)
    close(unrolled(cell, params)[1], keras_run(layer))


def keras_conv(row):
    xs = random(2, 4, 8, 8, 3)
    layer, weights = keras_layer(row.theirs[0], xs)
    params = cells.ConvLSTMParams(*map(jnp.asarray, weights.values()))
    close(unrolled(row.run(), params, xs)[1], keras_run(layer, xs), 1e-4)


def keras_dense(row):
    xs = random(2, 4, 8)
    layer, weights = keras_layer(row.theirs[0], xs)
    params = rnnjax.DenseParams(*map(jnp.asarray, weights.values()))
    close(unrolled(row.run(), params, xs)[1], keras_run(layer, xs))


def keras_embedding(row):
    ids = np.arange(6).reshape(2, 3)
    layer, weights = keras_layer(row.theirs[0], ids)
    (table,) = weights.values()
    close(unrolled(row.run(), jnp.asarray(table), ids)[1], keras_run(layer, ids))


def keras_lstm(**options):
    keras, _ = keras_names()
    layer, weights = keras_layer("LSTM(8)")
    with libraries.quietly():
        other = keras.layers.LSTM(8, **options)
        other.build(XS.shape)
        other.set_weights(layer.get_weights())
    return other, interop.from_keras(weights).params


def keras_call(row):
    options = dict(re.findall(r"(return_\w+|unroll|stateful)=(True)", row.theirs[0]))
    layer, params = keras_lstm(**dict.fromkeys(options, True))
    found = row.run(params)
    with libraries.quietly():
        expected = layer(XS)
    if "return_state" in options:
        last, h, c = expected
        carry, ys = found
        close((ys[:, -1], carry.h, carry.c), (last, h, c))
        return
    if "unroll" in options:  # one sequence, in a Python loop
        found = row.run(params)[0].h
        close(found, np.asarray(expected)[0])
        return
    close(found, expected)


def keras_start(row):
    layer, params = keras_lstm(return_sequences=True)
    ys = row.run(params, carry=rnnjax.LSTMCarry(C, H))[1]
    close(ys, keras_run(layer, initial_state=[H, C]))


def keras_mask(row):
    mask = np.array(VALID)
    mask[0, 2] = False  # gaps too
    layer, params = keras_lstm(return_sequences=True, zero_output_for_mask=True)
    ys = row.run(params, mask=jnp.asarray(mask))[1]
    close(ys, keras_run(layer, mask=mask))


def keras_masking(row):
    keras, _ = keras_names()
    layer, params = keras_lstm(return_sequences=True, zero_output_for_mask=True)
    xs = XS * VALID[..., None]
    with libraries.quietly():
        masked = keras.layers.Masking(0.0)
        mask = np.asarray(masked.compute_mask(xs))
    ys = row.run(params, xs=jnp.asarray(xs))[1]
    close(ys, keras_run(layer, xs, mask=mask))


def keras_stateful(row):
    keras, _ = keras_names()
    layer, params = keras_lstm()
    with libraries.quietly():
        again = keras.layers.LSTM(8, stateful=True, return_sequences=True)
        again.build(XS.shape)
        again.set_weights(layer.get_weights())
        first, second = np.asarray(again(XS)), np.asarray(again(XS))
    carry = row.names["cell"].initial_carry(params)
    carry = jax.tree.map(lambda a: jnp.broadcast_to(a, (BATCH, *a.shape)), carry)
    carry, ys = row.run(params, carry=carry)
    close(ys, first)
    close(row.run(params, carry=carry)[1], second)


def keras_reset(row):
    keras, _ = keras_names()
    layer, params = keras_lstm()
    with libraries.quietly():
        again = keras.layers.LSTM(8, stateful=True)
        again.build(XS.shape)
        again.set_weights(layer.get_weights())
        again(XS)
        again.reset_state()
        states = [np.asarray(state.value) for state in again.states]
    carry = row.run(params)
    for ours, theirs in zip((carry.h, carry.c), states, strict=True):
        close(jnp.broadcast_to(ours, theirs.shape), theirs)


def keras_pad(row):
    keras, _ = keras_names()
    ragged = [np.ones((3, 5)), np.ones((7, 5))]
    pad = functools.partial(keras.utils.pad_sequences, dtype="float64")
    code = row.theirs[0].replace("list", "ragged")
    in_front = eval(code, {"pad_sequences": pad, "ragged": ragged})
    at_end = functools.partial(pad, padding="post")
    close(row.run()[0], eval(code, {"pad_sequences": at_end, "ragged": ragged}))
    assert (row.run()[0] != in_front).any()  # as noted


def keras_weights(row):
    layer, params = keras_lstm()
    with libraries.quietly():
        close(row.run(params), layer.get_weights())


# Flax -------------------------------------------------------------------------------


def linen(module, xs=XS, **options):
    """Random params of a module, and its outputs."""
    with libraries.quietly():
        variables = module.init(jax.random.key(0), xs)
        shapes = jax.tree.map(jnp.shape, variables)
        drawn = jax.tree.map(lambda a: a * 0.5, libraries.random(shapes))
        drawn = jax.tree.map(jnp.float32, drawn)
        return drawn["params"], module.apply(drawn, xs, **options)


def flax_names(**more):
    nn = pytest.importorskip("flax.linen")
    return nn, vars(nn) | {"nn": nn} | more


def flax_cell(row):
    nn, names = flax_names()
    cell = row.run()
    relu: Any = {"activation": jax.nn.relu} if "relu" in row.theirs[0] else {}
    for code in row.theirs:
        weights, ys = linen(nn.RNN(eval(code, names)))
        found, params, _ = interop.from_linen(weights, **relu)
        assert found == cell
        close(unrolled(cell, params)[1], ys)


def flax_residual(row):
    nn, names = flax_names()
    weights, ys = linen(nn.RNN(eval(row.theirs[0], names)))
    found, params, _ = interop.from_linen(weights)
    assert found == row.run()
    params = params._replace(w_hh=params.w_hh + jnp.eye(HIDDEN))
    close(unrolled(found, params)[1], ys)


def flax_conv(row):
    nn, names = flax_names()
    xs = random(2, 4, 8, 8, 3)
    weights, ys = linen(nn.RNN(eval(row.theirs[0], names)), xs)
    (cell,) = weights.values()
    both = {part: cell["ih"][part] for part in ("kernel", "bias")}
    params = conv_params(both, cell["hh"], "kernel", "bias")
    close(unrolled(row.run(), params, xs)[1], ys, 1e-4)


def conv_params(ih, hh, w, b):
    """Their gates i g f o and two biases as ours; they add 1 to f at every call."""

    def ordered(a):
        i, g, f, o = jnp.split(jnp.asarray(a), 4, axis=-1)
        return jnp.concatenate([i, f, g, o], axis=-1)

    bias = ordered(ih[b] + hh[b])
    bias = bias.at[bias.size // 4 : bias.size // 2].add(1)
    return cells.ConvLSTMParams(ordered(ih[w]), ordered(hh[w]), bias)


def flax_rnn(row):
    """Rows that write ``cell``, ``a`` and ``b`` for cells."""
    nn, names = flax_names()
    made = {name: nn.LSTMCell(8) for name in ("cell", "a", "b")}
    weights, ys = linen(eval(row.theirs[0], names | made))
    found, params, _ = interop.from_linen(weights)
    ours = row.run()
    if not isinstance(ours, rnnjax.Cell):  # cell.unroll, of one sequence
        start = found.initial_carry(params)
        close(jax.vmap(ours, (None, None, 0))(params, start, XS)[1], ys)
        return
    close(unrolled(ours, params)[1], ys)


def flax_lstm(**options):
    nn, _ = flax_names()
    rnn = nn.RNN(nn.LSTMCell(8), **options)
    xs = XS.swapaxes(0, 1) if options.get("time_major") else XS
    weights, ys = linen(rnn, xs)
    return rnn, weights, interop.from_linen(weights).params, ys


def flax_init(row):
    _, _, params, _ = flax_lstm()
    shapes = jax.tree.map(jnp.shape, row.run())
    assert shapes == jax.tree.map(jnp.shape, params)


def flax_call(row):
    _, _, params, ys = flax_lstm()
    close(row.run(params)[1], ys)


def flax_lengths(row):
    rnn, weights, params, _ = flax_lstm()
    ys = rnn.apply({"params": weights}, XS, seq_lengths=LENGTHS)
    found = row.run(params)[1]
    close(found, jnp.where(VALID[..., None], ys, 0))  # outputs after the end: as noted
    assert np.any(np.asarray(ys)[~VALID])


def flax_carry(row):
    rnn, weights, params, _ = flax_lstm()
    ys = rnn.apply({"params": weights}, XS, initial_carry=(C, H))
    close(row.run(params, carry=rnnjax.LSTMCarry(C, H))[1], ys)


def flax_return_carry(row):
    rnn, weights, params, _ = flax_lstm()
    (c, h), ys = rnn.apply({"params": weights}, XS, return_carry=True)
    carry, found = row.run(params)
    close((found, carry.c, carry.h), (ys, c, h))


def flax_time_major(row):
    _, _, params, ys = flax_lstm(time_major=True)
    close(row.run(params)[1], ys)


def flax_start(row):
    nn, _ = flax_names()
    _, _, params, _ = flax_lstm()
    c, h = nn.LSTMCell(8).initialize_carry(jax.random.key(0), (5,))
    carry = row.run(params)
    close((carry.c, carry.h), (c, h))


def flax_step(row):
    nn, _ = flax_names()
    _, weights, params, _ = flax_lstm()
    cell = nn.LSTMCell(8)
    start = cell.initialize_carry(jax.random.key(0), (5,))
    (c, h), y = cell.apply({"params": weights["cell"]}, start, XS[0, 0])
    carry, found = row.run(params)
    close((carry.c, carry.h, found), (c, h, y))


def flax_remat(row):
    nn, _ = flax_names()
    # remat takes the class, and the cell of a table's line is one already.
    weights, ys = linen(nn.RNN(nn.remat(nn.LSTMCell)(8)))
    cell, params = row.run(), interop.from_linen(weights).params
    close(unrolled(cell, params)[1], ys)


# Haiku ------------------------------------------------------------------------------


def haiku():
    pytest.importorskip("haiku")
    with libraries.quietly():
        import haiku as hk
    return hk


def in_haiku(make, xs=XS, reset=None, **options):
    """Random params of a core, its outputs and last state."""
    hk = haiku()

    def run(xs):
        core = make(hk)
        given = xs if reset is None else (xs, jnp.asarray(reset))
        state = core.initial_state(len(xs))
        return hk.dynamic_unroll(core, given, state, time_major=False, **options)

    network = hk.without_apply_rng(hk.transform(run))
    with libraries.quietly():
        shapes = jax.tree.map(
            jnp.shape, jax.eval_shape(network.init, jax.random.key(0), xs)
        )
        drawn = jax.tree.map(lambda a: a * 0.5, libraries.random(shapes))
        drawn = jax.tree.map(jnp.float32, drawn)
        return drawn, *network.apply(drawn, xs)


def haiku_core(row):
    def make(hk):
        return eval(row.theirs[0], {"hk": hk, "jax": jax})

    cell = row.run()
    weights, ys, _ = in_haiku(make)
    found, params, _ = interop.from_haiku(weights)
    if "jax.nn.relu" in row.theirs[0]:  # a layer without params, between the two
        first, _, second = cell.spec.cells
        assert found == rnnjax.stack(first, second)
        params = (params[0], (), params[1])
    else:
        assert found == cell
    close(unrolled(cell, params)[1], ys)


def haiku_skip(row):
    def make(hk):
        return eval(row.theirs[0], {"hk": hk, "a": hk.LSTM(8), "b": hk.LSTM(8)})

    cell = row.run()
    weights, ys, _ = in_haiku(make)
    params = tuple(interop.from_haiku({n: w}).params for n, w in weights.items())
    close(unrolled(cell, params)[1], ys)


def haiku_conv(row):
    xs = random(2, 4, 8, 8, 3)
    weights, ys, _ = in_haiku(lambda hk: eval(row.theirs[0], {"hk": hk}), xs)
    ih, hh = (
        next(value for name, value in weights.items() if name.endswith(part))
        for part in ("input_to_hidden", "hidden_to_hidden")
    )
    close(unrolled(row.run(), conv_params(ih, hh, "w", "b"), xs)[1], ys, 1e-4)


def haiku_resets(row):
    reset = np.random.default_rng(5).random((BATCH, TIME)) < 0.4
    weights, ys, _ = in_haiku(
        lambda hk: eval(row.theirs[0], {"hk": hk, "core": hk.LSTM(8)}), reset=reset
    )
    params = interop.from_haiku(weights).params
    close(row.run(params, starts=jnp.asarray(reset))[1], ys)


def haiku_identity(row):
    _, ys, _ = in_haiku(lambda hk: eval(row.theirs[0], {"hk": hk}))
    close(unrolled(row.run(), ())[1], ys)


def haiku_layer(row):
    hk, xs = haiku(), random(4, 8)
    if "Embed" in row.theirs[0]:
        xs = np.arange(4)
    network = hk.without_apply_rng(
        hk.transform(lambda xs: eval(row.theirs[0], {"hk": hk})(xs))
    )
    with libraries.quietly():
        weights = network.init(jax.random.key(0), xs)
        ys = network.apply(weights, xs)
    (arrays,) = weights.values()
    (params, *_) = arrays.values()
    if "Linear" in row.theirs[0]:
        params = rnnjax.DenseParams(**arrays)
    close(row.run().unroll(params, (), jnp.asarray(xs))[1], ys)


def haiku_lstm(**options):
    weights, ys, state = in_haiku(lambda hk: hk.LSTM(8), **options)
    return interop.from_haiku(weights).params, ys, state


def haiku_call(row):
    hk = haiku()
    weights, _, _ = in_haiku(lambda hk: hk.LSTM(8))
    params = interop.from_haiku(weights).params

    def run(xs):
        state = hk.LSTMState(hidden=jnp.asarray(H), cell=jnp.asarray(C))
        return hk.dynamic_unroll(hk.LSTM(8), xs, state, time_major=False)

    network = hk.without_apply_rng(hk.transform(run))
    with libraries.quietly():
        ys, state = network.apply(weights, XS)
    carry, found = row.run(params, carry=rnnjax.LSTMCarry(C, H))
    close((found, carry.h, carry.c), (ys, state.hidden, state.cell))


def haiku_static(row):
    hk = haiku()
    weights, _, _ = in_haiku(lambda hk: hk.LSTM(8))

    def run(xs):
        core = hk.LSTM(8)
        return hk.static_unroll(core, xs, core.initial_state(BATCH), time_major=False)

    with libraries.quietly():
        ys, _ = hk.without_apply_rng(hk.transform(run)).apply(weights, XS)
    close(row.run(interop.from_haiku(weights).params)[1], ys[0])


def haiku_time_major(row):
    params, ys, _ = haiku_lstm()
    close(row.run(params)[1], jnp.swapaxes(ys, 0, 1))


def haiku_reverse(row):
    params, ys, _ = haiku_lstm(reverse=True)
    close(unrolled(row.run(), params)[1], ys)


def haiku_start(row):
    hk = haiku()
    params, _, _ = haiku_lstm()
    network = hk.without_apply_rng(hk.transform(lambda: hk.LSTM(8).initial_state(2)))
    with libraries.quietly():
        state = network.apply({})
    carry = row.run(params)
    close(jnp.broadcast_to(carry.h, (2, 8)), state.hidden)
    close(jnp.broadcast_to(carry.c, (2, 8)), state.cell)


def haiku_state(row):
    params, _, state = haiku_lstm()
    carry, _ = unrolled(row.names["cell"], params)
    close(eval(row.ours[0], row.names | {"carry": carry}), (state.hidden, state.cell))


def haiku_step(row):
    params, ys, _ = haiku_lstm()
    carry, y = row.run(params)
    close((y, carry.h), (ys[0, 0], ys[0, 0]))


def haiku_all_states(row):
    params, _, states = haiku_lstm(return_all_states=True)
    traced = row.run(params)
    close(traced["h"], states.hidden[0])
    close(traced["c"], states.cell[0])


# Equinox ----------------------------------------------------------------------------


def equinox_module(code):
    """A module of Equinox with random weights of its own."""
    eqx = pytest.importorskip("equinox")
    return eqx, eval(code, vars(eqx.nn) | {"key": jax.random.key(7)})


def equinox_lstm():
    eqx, module = equinox_module("LSTMCell(5, 8, key=key)")
    return eqx, module, interop.from_equinox(vars(module)).params


def equinox_scan(module, xs, **options):
    """The states of one sequence, the last of them apart."""
    state = jnp.zeros(HIDDEN)
    state = (state, state) if module.weight_hh.shape[0] == 4 * HIDDEN else state
    return jax.lax.scan(lambda s, x: (module(x, s),) * 2, state, xs, **options)


def equinox_cell(row):
    _, module = equinox_module(row.theirs[0])
    found, params, _ = interop.from_equinox(vars(module))
    assert found == row.run()
    _, states = jax.vmap(functools.partial(equinox_scan, module))(XS)
    h = states[0] if isinstance(states, tuple) else states
    close(unrolled(found, params)[1], h)


def equinox_layer(row):
    _, module = equinox_module(row.theirs[0])
    xs: Any = np.arange(4) if "Embedding" in row.theirs[0] else random(4, 8)
    params: Any = ()
    if "Linear" in row.theirs[0]:
        params = rnnjax.DenseParams(module.weight.T, module.bias)
    elif "Embedding" in row.theirs[0]:
        params = module.weight
    close(row.run().unroll(params, (), jnp.asarray(xs))[1], jax.vmap(module)(xs))


def equinox_step(row):
    _, module, params = equinox_lstm()
    names = {"cell": module, "x": XS[0, 0], "h": H[0], "c": C[0]}
    h, c = eval(row.theirs[0], names)
    carry, y = row.run(params, carry=rnnjax.LSTMCarry(C[0], H[0]), xs=XS)
    close((carry.c, carry.h, y), (c, h, h))


def equinox_walk(row):
    _, module, params = equinox_lstm()
    names = {"jax": jax, "cell": module, "state": (H[0], C[0]), "xs": XS[0]}
    (h, c), _ = eval(row.theirs[0], names)
    carry, _ = row.run(params, carry=rnnjax.LSTMCarry(C[0], H[0]))
    close((carry.h, carry.c), (h, c))


def equinox_reverse(row):
    _, module, params = equinox_lstm()
    _, (h, _) = equinox_scan(module, XS[0], reverse=True)
    close(unrolled(row.run(), params)[1][0], h)


def equinox_batch(row):
    _, module, params = equinox_lstm()

    def run(xs):
        return equinox_scan(module, xs)

    (h, c), (hs, _) = eval(row.theirs[0], {"jax": jax, "run": run, "xs": XS})
    carry, ys = row.run(params)
    close((carry.h, carry.c, ys), (h, c, hs))


def equinox_lengths(row):
    _, module, params = equinox_lstm()

    def run(xs, length):
        def step(old, inputs):
            t, x = inputs
            new = module(x, old)
            names = {"jnp": jnp, "t": t, "length": length}
            return tuple(
                eval(row.theirs[0], names | {"new": n, "old": o})
                for n, o in zip(new, old, strict=True)
            ), None

        zero = jnp.zeros(HIDDEN)
        return jax.lax.scan(step, (zero, zero), (jnp.arange(TIME), xs))[0]

    carry, _ = row.run(params)
    close((carry.h, carry.c), jax.vmap(run)(XS, LENGTHS))


def equinox_gradient(row):
    eqx, module, params = equinox_lstm()
    xs = names_of("equinox")["xs"]  # those that the page's loss reads

    def loss(model):
        _, (hs, _) = jax.vmap(functools.partial(equinox_scan, model))(xs)
        return jnp.mean(hs**2)

    theirs = eval(row.theirs[0], {"eqx": eqx, "loss": loss, "model": module})
    ours = row.run(params)
    transposed = (theirs.weight_ih.T, theirs.weight_hh.T, theirs.bias)
    close((ours.w_ih, ours.w_hh, ours.b), transposed)


COMPARED: dict[tuple[str, str], Callable[[Row], None]] = {
    ("torch", "`nn.LSTM(5, 8)`"): torch_layer,
    ("torch", "`nn.GRU(5, 8)`"): torch_layer,
    ("torch", "`nn.RNN(5, 8)`"): torch_layer,
    ("torch", '`nn.RNN(5, 8, nonlinearity="relu")`'): torch_layer,
    ("torch", "`nn.LSTM(5, 8, proj_size=3)`"): torch_layer,
    ("torch", "`nn.LSTM(5, 8, num_layers=2)`"): torch_layer,
    ("torch", "`nn.LSTM(5, 8, bidirectional=True)`"): torch_layer,
    ("torch", "two layers of two directions"): torch_layer,
    ("torch", "`nn.LSTM(5, 8, 2, dropout=0.1)`"): torch_layer,
    ("torch", "`nn.LSTMCell(5, 8)`"): torch_cell,
    ("torch", "`nn.Embedding(100, 5)`"): torch_embedding,
    ("torch", "`nn.Linear(8, 3)`"): torch_linear,
    ("torch", "`out, (h, c) = lstm(xs)`"): torch_run,
    ("torch", "`lstm(xs, (h0, c0))`"): torch_carry,
    ("torch", "`h[-1]`, `h` of the last layer"): torch_last,
    ("torch", "`pack_padded_sequence(xs, lengths)`"): torch_lengths,
    ("torch", "`pad_packed_sequence(out)`"): torch_padding,
    ("torch", "`pad_sequence(list, batch_first=True)`"): torch_pad_sequence,
    (
        "torch",
        "`pad_sequence(list, batch_first=True, padding_value=-1.0)`",
    ): torch_pad_sequence,
    ("torch", "`h_t = cell(x, h)`"): torch_step,
    ("torch", "`batch_first=False`"): torch_time_major,
    ("torch", "`lstm.eval()`"): torch_eval,
    ("torch", "`h.detach()`"): torch_detach,
    ("torch", "`lstm.to(torch.bfloat16)`"): torch_bfloat16,
    ("keras", "`LSTM(8)`"): keras_row,
    ("keras", "`GRU(8)`"): keras_row,
    ("keras", "`GRU(8, reset_after=False)`"): keras_row,
    ("keras", "`SimpleRNN(8)`"): keras_row,
    ("keras", '`LSTM(8, activation="relu")`'): keras_row,
    ("keras", "`ConvLSTM2D(4, 3)`"): keras_conv,
    ("keras", "`Bidirectional(LSTM(8))`"): keras_row,
    ("keras", '`Bidirectional(LSTM(8), merge_mode="sum")`'): keras_row,
    ("keras", "`Sequential([LSTM(8, return_sequences=True), LSTM(4)])`"): keras_row,
    ("keras", "`StackedRNNCells([LSTMCell(8), LSTMCell(4)])`"): keras_row,
    ("keras", "`LSTM(8, go_backwards=True)`"): keras_row,
    ("keras", "`LSTM(8, dropout=0.1)`"): keras_row,
    ("keras", "`LSTM(8, recurrent_dropout=0.1)`"): keras_row,
    ("keras", "`TimeDistributed(Dense(3))`"): keras_dense,
    ("keras", "`Embedding(100, 5)`"): keras_embedding,
    ("keras", "`LSTM(8, return_sequences=True)(xs)`"): keras_call,
    ("keras", "`LSTM(8)(xs)`"): keras_call,
    ("keras", "`LSTM(8, return_state=True)(xs)`"): keras_call,
    ("keras", "`layer(xs, initial_state=[h, c])`"): keras_start,
    ("keras", "`layer(xs, mask=mask)`"): keras_mask,
    ("keras", "`Masking(0.0)`"): keras_masking,
    ("keras", "`LSTM(8, stateful=True)`"): keras_stateful,
    ("keras", "`layer.reset_state()`"): keras_reset,
    ("keras", "`LSTM(8, unroll=True)`"): keras_call,
    ("keras", "`pad_sequences(list)`"): keras_pad,
    ("keras", "`pad_sequences(list, value=-1.0)`"): keras_pad,
    ("keras", "`layer.get_weights()`"): keras_weights,
    ("flax", "`LSTMCell(8)`, `OptimizedLSTMCell(8)`"): flax_cell,
    ("flax", "`GRUCell(8)`"): flax_cell,
    ("flax", "`SimpleCell(8)`"): flax_cell,
    ("flax", "`SimpleCell(8, residual=True)`"): flax_residual,
    ("flax", "`MGUCell(8)`"): flax_cell,
    ("flax", "`ConvLSTMCell(4, (3, 3))`"): flax_conv,
    ("flax", "`LSTMCell(8, activation_fn=nn.relu)`"): flax_cell,
    ("flax", "`nn.RNN(cell)`"): flax_rnn,
    ("flax", "`nn.Bidirectional(nn.RNN(a), nn.RNN(b))`"): flax_rnn,
    ("flax", "`nn.Sequential([nn.RNN(a), nn.RNN(b)])`"): flax_rnn,
    ("flax", "`nn.RNN(cell, reverse=True, keep_order=True)`"): flax_rnn,
    ("flax", "`rnn.init(key, xs)`"): flax_init,
    ("flax", "`rnn.apply(variables, xs)`"): flax_call,
    ("flax", "`rnn.apply(variables, xs, seq_lengths=lengths)`"): flax_lengths,
    ("flax", "`initial_carry=carry`"): flax_carry,
    ("flax", "`return_carry=True`"): flax_return_carry,
    ("flax", "`time_major=True`"): flax_time_major,
    ("flax", "`cell.initialize_carry(key, shape)`"): flax_start,
    ("flax", "`cell.apply(variables, carry, x)`"): flax_step,
    ("flax", "`nn.RNN(cell, unroll=4)`"): flax_rnn,
    ("flax", "`nn.remat(cell)`"): flax_remat,
    ("haiku", "`hk.LSTM(8)`"): haiku_core,
    ("haiku", "`hk.GRU(8)`"): haiku_core,
    ("haiku", "`hk.VanillaRNN(8)`"): haiku_core,
    ("haiku", "`hk.Conv2DLSTM((8, 8), 4, 3)`"): haiku_conv,
    ("haiku", "`hk.DeepRNN([hk.LSTM(8), jax.nn.relu, hk.LSTM(8)])`"): haiku_core,
    ("haiku", "`hk.deep_rnn_with_skip_connections([a, b])`"): haiku_skip,
    ("haiku", "`hk.ResetCore(core)`"): haiku_resets,
    ("haiku", "`hk.IdentityCore()`"): haiku_identity,
    ("haiku", "`hk.Linear(3)`"): haiku_layer,
    ("haiku", "`hk.Embed(100, 5)`"): haiku_layer,
    ("haiku", "`hk.dynamic_unroll(core, xs, state)`"): haiku_call,
    ("haiku", "`hk.static_unroll(core, xs, state)`"): haiku_static,
    ("haiku", "`time_major=True`"): haiku_time_major,
    ("haiku", "`reverse=True`"): haiku_reverse,
    ("haiku", "`core.initial_state(batch_size)`"): haiku_start,
    ("haiku", "`hk.LSTMState(hidden, cell)`"): haiku_state,
    ("haiku", "`y, state = core(x, state)`"): haiku_step,
    ("haiku", "`return_all_states=True`"): haiku_all_states,
    ("equinox", "`LSTMCell(5, 8, key=key)`"): equinox_cell,
    ("equinox", "`GRUCell(5, 8, key=key)`"): equinox_cell,
    ("equinox", "`LSTMCell(5, 8, use_bias=False, key=key)`"): equinox_cell,
    ("equinox", "`Linear(8, 3, key=key)`"): equinox_layer,
    ("equinox", "`Embedding(100, 5, key=key)`"): equinox_layer,
    ("equinox", "`Dropout(0.5, inference=True)`"): equinox_layer,
    ("equinox", "`cell(x, (h, c))`"): equinox_step,
    (
        "equinox",
        "`jax.lax.scan(lambda s, x: (cell(x, s), None), state, xs)`",
    ): equinox_walk,
    ("equinox", "`jax.lax.scan(step, state, xs, reverse=True)`"): equinox_reverse,
    ("equinox", "`jax.vmap(run)(xs)`"): equinox_batch,
    ("equinox", "`jnp.where(t < length, new, old)`"): equinox_lengths,
    ("equinox", "`eqx.filter_grad(loss)(model)`"): equinox_gradient,
}
# These run, and there is no number of theirs that they could be held against.
NO_COMPUTATION = {
    ("torch", "`lstm.parameters()`"): "theirs has two biases where ours has one",
    ("keras", "`layer(xs, training=True)`"): "both draw, each from its own generator",
}


def lines():
    """The page, their column and ours, of every line of every table with our code."""
    for page, library in NAMES.items():
        text = (DOCS / f"from-{page}.md").read_text()
        for table in re.findall(
            rf"\| {library} \| rnnjax .*\n\|[-|]*\n((?:\|.*\n)+)", text
        ):
            for line in table.splitlines():
                # A bar within code is no end of a cell; none of ours has one.
                theirs, ours = (cell.strip() for cell in line.split("|")[1:3])
                yield page, theirs, ours


@functools.cache
def names_of(page):
    """What the first block of a page defines, once for all its lines."""
    text = (DOCS / f"from-{page}.md").read_text()
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None
    names: dict[str, Any] = {}
    exec(block[1], names)
    return names


def row_of(page, theirs, ours):
    values = {
        "xs": jnp.asarray(XS),
        "lengths": jnp.asarray(LENGTHS),
        "mask": jnp.asarray(VALID),
    }
    defined = names_of(page)
    own = {name: value for name, value in values.items() if name in defined}
    code = re.compile(r"`([^`]+)`")
    return Row(code.findall(theirs) or [theirs], code.findall(ours), defined | own)


@pytest.mark.parametrize(
    ("page", "theirs", "ours"),
    [pytest.param(*line, id=" ".join(line[:2])) for line in lines()],
)
def test_each_line_of_the_tables_gives_their_numbers(page, theirs, ours):
    row = row_of(page, theirs, ours)
    assert row.ours
    for code in row.ours:
        eval(code, names_of(page))
    if (page, theirs) not in NO_COMPUTATION:
        COMPARED[page, theirs](row)


def test_every_line_is_compared_or_says_why_not():
    found = [line[:2] for line in lines()]
    assert len(found) == len(set(found)) > 97
    assert set(found) == COMPARED.keys() | NO_COMPUTATION.keys()
    assert not COMPARED.keys() & NO_COMPUTATION.keys()


def test_haiku_cuts_a_reversed_walk_from_the_other_side():
    """As the page says: there a flag clears the state of what comes later in time."""
    reset = np.zeros((BATCH, TIME), bool)
    reset[:, 3] = True
    weights, ys, _ = in_haiku(
        lambda hk: hk.ResetCore(hk.LSTM(8)), reset=reset, reverse=True
    )
    params = interop.from_haiku(weights).params
    cell = rnnjax.reverse(rnnjax.lstm(5, 8))
    ours = unrolled(cell, params, reset=jnp.asarray(reset))[1]
    # Ours starts a segment at step 3, so step 2 is the first of a backward walk.
    close(ours[:, :3], unrolled(cell, params, XS[:, :3])[1])
    # Theirs starts the walk anew at step 3 itself.
    close(ys[:, :4], unrolled(cell, params, XS[:, :4])[1])
    moved = np.roll(reset, 1, axis=1)
    close(unrolled(cell, params, reset=jnp.asarray(moved))[1], ys)
