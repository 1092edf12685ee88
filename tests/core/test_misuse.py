# pyright: reportArgumentType=false, reportCallIssue=false
"""Every misuse gets a sentence: the argument, what came and was expected, a remedy."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax.guards import FormError

CELL = rnnjax.lstm(5, 4)
STACK = rnnjax.stack(rnnjax.lstm(5, 4), rnnjax.gru(4, 2))


def params(cell=CELL):
    return cell.init(jax.random.key(0))


def start(cell=CELL):
    return cell.initial_carry(params(cell))


def xs(*shape, dtype=None):
    return jnp.ones(shape or (7, 5), dtype)


def run(inputs=None, carry=None, cell=CELL, **signals):
    given = params(cell)
    carry = cell.initial_carry(given) if carry is None else carry
    return cell.unroll(given, carry, xs() if inputs is None else inputs, **signals)


def batch(inputs=None, cell=CELL, **arguments):
    inputs = xs(3, 7, 5) if inputs is None else inputs
    return rnnjax.unroll(cell, params(cell), inputs, **arguments)


def batch_of(given):
    return batch_with(CELL, given)


def batch_with(cell, given, inputs=None):
    return rnnjax.unroll(cell, given, xs(3, 7, 5) if inputs is None else inputs)


def run_step(cell):
    given = params(cell)
    return cell.step(given, cell.initial_carry(given), xs(5))


@rnnjax.constructor
def mine(finish):
    def step(w, h, x):
        return finish(jnp.tanh(h @ w + x))

    return rnnjax.recurrence(
        lambda key: jax.random.normal(key, (5, 5)),
        lambda w: jnp.zeros(5, w.dtype),
        lambda w, x: x,
        step,
    )


def lstm_carry(*shape, dtype=None):
    return rnnjax.LSTMCarry(jnp.zeros(shape, dtype), jnp.zeros(shape, dtype))


def flags(*shape, dtype=bool):
    return jnp.ones(shape, dtype)


BEFORE = rnnjax.gru(5, 4, reset_after=False)


def learner(rule, cell=CELL):
    return rnnjax.online.learner(cell, rule)


def torch(without=""):
    arrays = rnnjax.interop.to_torch(CELL, params()).arrays
    return {name: array for name, array in arrays.items() if name != without}


def half():
    return {"weight_hh_l0": torch()["weight_hh_l0"].astype("float16")}


def node(**shapes):
    shapes |= {"W": (1, 4, 5), "R": (1, 4, 4)}
    return {name: jnp.ones(shape) for name, shape in shapes.items()}


# name: (call, error, what the sentence must say)
MISUSES = {
    "batch given to a single-sequence unroll": (
        lambda: run(xs(32, 7, 5)),
        ValueError,
        r"xs has shape \(32, 7, 5\).*one sequence, \(time, 5\).*rnnjax.unroll\(",
    ),
    "sequence given to step": (
        lambda: CELL.step(params(), start(), xs(7, 5)),
        ValueError,
        r"x has shape \(7, 5\).*one example at one time, \(5,\).*cell.unroll\(",
    ),
    "sequence given to the batch unroll": (
        lambda: batch(xs(7, 5)),
        ValueError,
        r"xs has shape \(5,\).*\(time, 5\).*",
    ),
    "vector given to the batch unroll": (
        lambda: batch(xs(7)),
        ValueError,
        r"xs has .*\(7,\).*\(batch, time, ...\).*xs\[None\]",
    ),
    "wrong feature size": (
        lambda: run(xs(7, 6)),
        ValueError,
        r"xs has shape \(7, 6\).*\(time, 5\).*input_size=6",
    ),
    "wrong feature size in step": (
        lambda: CELL.step(params(), start(), xs(6)),
        ValueError,
        r"x has shape \(6,\).*\(5,\).*input_size=6",
    ),
    "integer inputs": (
        lambda: run(xs(dtype=int)),
        TypeError,
        r"xs has dtype int.*floating.*astype.*rnnjax.embedding",
    ),
    "integer input to step": (
        lambda: CELL.step(params(), start(), xs(5, dtype=int)),
        TypeError,
        r"x has dtype int.*floating.*astype",
    ),
    "floating tokens": (
        lambda: run(xs(7), cell=rnnjax.stack(rnnjax.embedding(9, 5), CELL)),
        TypeError,
        r"x of an embedding has dtype float.*integers.*astype",
    ),
    "zero-length time": (
        lambda: run(xs(0, 5)),
        ValueError,
        r"xs has shape \(0, 5\).*one or more.*lengths=0",
    ),
    "zero-length time in a batch": (
        lambda: batch(xs(3, 0, 5)),
        ValueError,
        r"xs has shape \(3, 0, 5\).*at least one.*lengths=0",
    ),
    "ragged leaves": (
        lambda: run((xs(7, 5), xs(6, 5)), cell=rnnjax.pointwise(lambda x: x[0])),
        ValueError,
        r"xs has leaves of shapes .*same number of time steps.*\(time, ...\)",
    ),
    "params of another cell": (
        lambda: CELL.unroll(params(rnnjax.gru(5, 4)), start(), xs()),
        ValueError,
        r"params is GRUParams\(.*made for LSTMParams\(.*params = cell.init\(key\)",
    ),
    "params of another cell in step": (
        lambda: CELL.step(params(rnnjax.lstm(3, 4)), start(), xs(5)),
        ValueError,
        r"params.w_ih is .*\[3,16\].*made for .*\[5,16\].*params = cell.init\(key\)",
    ),
    "params of an ensemble": (
        lambda: batch_of(jax.vmap(CELL.init)(jax.random.split(jax.random.key(0), 3))),
        ValueError,
        r"params.w_ih is .*\[3,5,16\].*made for .*\[5,16\].*jax.vmap\(",
    ),
    "carry of another structure": (
        lambda: run(carry=jnp.zeros(4)),
        TypeError,
        r"carry is float.*\[4\].*LSTMCarry\(c=float.*initial_carry\(params\)",
    ),
    "(h, c) as a plain tuple": (
        lambda: run(carry=(jnp.zeros(4), jnp.zeros(4))),
        TypeError,
        r"carry is \(.*LSTMCarry\(c=..., h=...\).*\(h, c\)",
    ),
    "no carry": (
        lambda: CELL.unroll(params(), None, xs()),
        TypeError,
        r"carry is None.*LSTMCarry.*initial_carry",
    ),
    "carry of the wrong shape": (
        lambda: run(carry=lstm_carry(6)),
        ValueError,
        r"carry.c has shape \(6,\).*\(4,\).*initial_carry\(params\)",
    ),
    "carry of a batch": (
        lambda: run(carry=lstm_carry(3, 4)),
        ValueError,
        r"carry.c has shape \(3, 4\).*\(4,\).*rnnjax.unroll\(",
    ),
    "carry of one example in a batch": (
        lambda: batch(carry=lstm_carry(4)),
        ValueError,
        r"carry.c has shape \(4,\).*\(3, 4\).*jnp.stack",
    ),
    "carry of the wrong dtype": (
        lambda: run(carry=lstm_carry(4, dtype=jnp.bfloat16)),
        TypeError,
        r"carry.c has dtype bfloat16.*float64.*astype",
    ),
    "carry of the wrong dtype in step": (
        lambda: CELL.step(params(), lstm_carry(4, dtype=jnp.float32), xs(5)),
        TypeError,
        r"carry.c has dtype float32.*float64.*astype",
    ),
    "carry of a stack with an entry missing": (
        lambda: run(carry=(lstm_carry(4),), cell=STACK),
        TypeError,
        r"carry has 1 entries.*tuple of 2.*initial_carry\(params\)",
    ),
    "carry of a stack in the wrong order": (
        lambda: run(carry=start(STACK)[::-1], cell=STACK),
        TypeError,
        r"carry is float.*LSTMCarry.*initial_carry\(params\)",
    ),
    "lengths longer than time": (
        lambda: batch(lengths=jnp.array([5, 8, 7])),
        ValueError,
        r"lengths holds \[8\].*0 to 7.*pad xs to 8",
    ),
    "negative lengths": (
        lambda: batch(lengths=jnp.array([5, -1, 7])),
        ValueError,
        r"lengths holds \[-1\].*0 to 7",
    ),
    "lengths of the wrong shape": (
        lambda: batch(lengths=jnp.array([[5, 6, 7]])),
        ValueError,
        r"lengths has shape \(1, 3\).*\(3,\)",
    ),
    "lengths of time-major data": (
        lambda: batch(xs(7, 3, 5), lengths=jnp.array([5, 6, 7])),
        ValueError,
        r"lengths has shape \(3,\).*\(7,\).*jnp.swapaxes\(xs, 0, 1\)",
    ),
    "floating lengths": (
        lambda: batch(lengths=jnp.array([5.0, 6.0, 7.0])),
        TypeError,
        r"lengths has dtype float64.*integers",
    ),
    "mask of the wrong shape": (
        lambda: run(mask=flags(6)),
        ValueError,
        r"mask has shape \(6,\).*\(7,\)",
    ),
    "mask of a batch": (
        lambda: run(mask=flags(3, 7)),
        ValueError,
        r"mask has shape \(3, 7\).*\(7,\).*rnnjax.unroll\(",
    ),
    "mask of the wrong shape for a batch": (
        lambda: batch(mask=flags(7)),
        ValueError,
        r"mask has shape \(7,\).*\(3, 7\)",
    ),
    "mask of the wrong dtype": (
        lambda: run(mask=flags(7, dtype=float)),
        TypeError,
        r"mask has dtype float64.*bool.*mask != 0",
    ),
    "mask of the wrong dtype for a batch": (
        lambda: batch(mask=flags(3, 7, dtype=int)),
        TypeError,
        r"mask has dtype int64.*bool.*mask != 0",
    ),
    "reset of the wrong shape": (
        lambda: run(reset=flags(6)),
        ValueError,
        r"reset has shape \(6,\).*\(7,\)",
    ),
    "reset of the wrong dtype": (
        lambda: run(reset=flags(7, dtype=int)),
        TypeError,
        r"reset has dtype int64.*bool.*reset != 0",
    ),
    "reset of a backward cell": (
        lambda: run(reset=flags(6), cell=rnnjax.bidirectional(CELL)),
        ValueError,
        r"reset has shape \(6,\).*\(7,\)",
    ),
    "reset to a carry of the wrong shape": (
        lambda: run(reset=rnnjax.Reset(flags(7), lstm_carry(3))),
        ValueError,
        r"reset.carry.c has shape \(3,\).*\(4,\)",
    ),
    "reset of a stack to too few carries": (
        lambda: run(reset=rnnjax.Reset(flags(7), (lstm_carry(4),)), cell=STACK),
        TypeError,
        r"reset.carry has 1 entries.*tuple of 2",
    ),
    "legacy key": (
        lambda: CELL.init(jax.random.PRNGKey(0)),
        TypeError,
        r"key is an array of uint32\[2\].*typed.*jax.random.key\(0\)",
    ),
    "missing key": (
        lambda: CELL.init(None),
        TypeError,
        r"key is None.*typed random key.*jax.random.key\(0\)",
    ),
    "a number as a key": (
        lambda: STACK.init(0),
        TypeError,
        r"key is 0.*typed random key.*jax.random.key\(0\)",
    ),
    "several keys": (
        lambda: CELL.init(jax.random.split(jax.random.key(0))),
        ValueError,
        r"key holds keys of shape \(2,\).*single.*key\[0\]",
    ),
    "legacy key in unroll": (
        lambda: run(key=jax.random.PRNGKey(0)),
        TypeError,
        r"key is an array of uint32\[2\].*typed",
    ),
    "legacy key for a batch": (
        lambda: batch(key=jax.random.PRNGKey(0)),
        TypeError,
        r"key is an array of uint32\[2\].*typed",
    ),
    "one size alone": (
        lambda: rnnjax.lstm(5),
        TypeError,
        r"lstm got .*'hidden_size'.*Write lstm\(input_size, hidden_size, forget_bias=",
    ),
    "hidden size of zero": (
        lambda: rnnjax.lstm(5, 0),
        ValueError,
        r"hidden_size is 0.*positive integer.*hidden_size=8",
    ),
    "floating input size": (
        lambda: rnnjax.gru(5.0, 4),
        ValueError,
        r"input_size is 5.0.*positive integer",
    ),
    "an array as an argument of a cell": (
        lambda: rnnjax.lstm(5, 4, forget_bias=jnp.ones(4)),
        TypeError,
        r"forget_bias is float64\[4\].*number.*arrays belong in params",
    ),
    "dropout of everything": (
        lambda: rnnjax.dropout(1.0),
        ValueError,
        r"rate is 1.0.*probability in \[0, 1\).*rate=0.5",
    ),
    "an empty stack": (
        lambda: rnnjax.stack(),
        TypeError,
        r"stack got nothing.*one or more cells.*stack\(rnnjax.lstm",
    ),
    "a list of cells": (
        lambda: rnnjax.stack([CELL, CELL]),
        TypeError,
        r"stack.*\*cells",
    ),
    "step of a bidirectional cell": (
        lambda: run_step(rnnjax.bidirectional(CELL)),
        rnnjax.NoStepError,
        r"step of a cell that walks time backwards.*cell.unroll\(params, carry, xs\)",
    ),
    "residual of unequal sizes": (
        lambda: rnnjax.residual(CELL),
        ValueError,
        r"residual\(lstm\(5, 4\)\).*takes 5 features.*out 4 features.*rnnjax.dense",
    ),
    "a name that is not in a trace": (
        lambda: rnnjax.trace(CELL, params(), start(), xs())["gate"],
        KeyError,
        r"'gate' is not in this trace.*'i', 'f', 'g', 'o', 'c', 'h'",
    ),
    "padding that the sequences cannot hold": (
        lambda: rnnjax.pad_sequences([[1, 2, 3], [4]], value=-0.5),
        ValueError,
        r"value is -0.5, and sequences hold int64.*value=0.*float64",
    ),
    "a temperature below zero": (
        lambda: rnnjax.sample(jax.random.key(0), xs(9), temperature=-1.0),
        ValueError,
        r"temperature is -1.0; expected zero or a positive number.*temperature=0.8",
    ),
    "a top_k of zero": (
        lambda: rnnjax.sample(jax.random.key(0), xs(9), top_k=0),
        ValueError,
        r"top_k is 0; expected a positive integer.*top_k=8",
    ),
    "a top_p above one": (
        lambda: rnnjax.sample(jax.random.key(0), xs(9), top_p=90),
        ValueError,
        r"top_p is 90; expected a probability in \[0, 1\].*top_p=0.9",
    ),
    "an output that cannot be the next input": (
        lambda: rnnjax.scheduled_outputs(
            CELL, params(), start(), xs(), 0.5, key=jax.random.key(0)
        ),
        ValueError,
        r"feed returned shape \(4,\); expected \(5,\).*rnnjax.dense.*feed=lambda y, x:",
    ),
    "a coverage penalty without attention": (
        lambda: rnnjax.beam_search(
            CELL,
            params(),
            start(),
            1,
            steps=9,
            beams=3,
            end_token=2,
            coverage_penalty=0.2,
        ),
        ValueError,
        r"coverage_penalty is given, and the cell has 0 attentions.*penalty=0.0",
    ),
    "a score bias without monotonic attention": (
        lambda: rnnjax.attention(CELL, 1, 4, (7, 8), score_bias=-4.0),
        ValueError,
        r"score_bias is -4.0 without monotonic.*monotonic='soft', score_bias=-4.0",
    ),
    "the state_dict of a whole model": (
        lambda: rnnjax.interop.from_torch({f"rnn.{n}": a for n, a in torch().items()}),
        ValueError,
        r"arrays holds 'rnn.weight_ih_l0'.*'weight_ih_l0'.*prefix='encoder.lstm.'",
    ),
    "one bias of two": (
        lambda: rnnjax.interop.from_torch(torch(without="bias_hh_l0")),
        ValueError,
        r"layer 0 of torch has bias_ih alone.*both biases.*whole state_dict\(\)",
    ),
    "weights of two dtypes": (
        lambda: rnnjax.interop.from_torch(torch() | half()),
        ValueError,
        r"in 'weight_ih_l0' and float16 in 'weight_hh_l0'.*one dtype.*a.astype",
    ),
    "params and cell swapped in a conversion": (
        lambda: rnnjax.interop.to_keras(params(), CELL),
        TypeError,
        r"cell is of type LSTMParams and params is a cell.*Write \(cell, params\)",
    ),
    "a GRU that the other library does not have": (
        lambda: rnnjax.interop.to_torch(BEFORE, params(BEFORE)),
        ValueError,
        r"gate before the recurrent product; expected after it, as torch does.*gru\(",
    ),
    "an ONNX node with the state that it starts from": (
        lambda: rnnjax.interop.from_onnx_weights("RNN", node(initial_h=(1, 1, 4))),
        ValueError,
        r"arrays holds 'initial_h'; expected W, R, B of an ONNX RNN alone.*as carry=",
    ),
    "a dictionary as xs": (
        lambda: run({"pixels": xs()}),
        TypeError,
        r"xs is \{'pixels': float64\[7,5\]\}.*an array of numbers.*the array in it",
    ),
    "a string as xs": (
        lambda: run("abc"),
        TypeError,
        r"xs is 'abc'.*an array of numbers.*JAX or NumPy",
    ),
    "nothing as xs": (
        lambda: CELL.unroll(params(), start(), None),
        TypeError,
        r"xs is None.*an array of numbers.*JAX or NumPy",
    ),
    "an object as xs": (
        lambda: run(object()),
        TypeError,
        r"xs is <object>.*an array of numbers.*numpy.asarray",
    ),
    "an object as the input of a step": (
        lambda: CELL.step(params(), start(), object()),
        TypeError,
        r"x is <object>.*an array of numbers.*numpy.asarray",
    ),
    "a dictionary given to the batch unroll": (
        lambda: batch({"pixels": object()}),
        TypeError,
        r"xs is \{'pixels': <object>\}.*pytree of such arrays",
    ),
    "params that would broadcast": (
        lambda: batch_of(params(rnnjax.elman(5, 4))),
        ValueError,
        r"params is ElmanParams\(.*lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "a bias without units": (
        lambda: batch_of(params()._replace(b=jnp.zeros(()))),
        ValueError,
        r"params.b is float64\[\]; lstm\(5, 4\) was made for float64\[16\].*init",
    ),
    "params of a GRU that resets after the product": (
        lambda: batch_with(
            rnnjax.gru(5, 4, reset_after=False), params(rnnjax.gru(5, 4))
        ),
        ValueError,
        r"b_hn is float64\[4\]; gru\(5, 4, reset_after=False\) was made for None",
    ),
    "params of a wider dense layer": (
        lambda: batch_with(rnnjax.dense(5, 2), params(rnnjax.dense(5, 4))),
        ValueError,
        r"params.w is float64\[5,4\]; dense\(5, 2\) was made for float64\[5,2\]",
    ),
    "params of another table": (
        lambda: batch_with(
            rnnjax.stack(rnnjax.embedding(9, 5), CELL),
            params(rnnjax.stack(rnnjax.embedding(20, 5), CELL)),
            xs(3, 7, dtype=int),
        ),
        ValueError,
        r"params\[0\] is float64\[20,5\]; stack\(.*\) was made for float64\[9,5\]",
    ),
    "no params": (
        lambda: CELL.unroll(None, start(), xs()),
        ValueError,
        r"params is None; lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "no params for a batch": (
        lambda: batch_of(None),
        ValueError,
        r"params is None; lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "params as a dictionary": (
        lambda: batch_of(params()._asdict()),
        ValueError,
        r"params is \{'b': .*lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "params as a list": (
        lambda: STACK.unroll([*params(STACK)], start(STACK), xs()),
        ValueError,
        r"params is \[LSTMParams\(.* was made for \(LSTMParams\(.*init\(key\)",
    ),
    "params as a plain tuple": (
        lambda: CELL.unroll(tuple(params()), start(), xs()),
        ValueError,
        r"params is \(float.*lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "a cell in place of its params": (
        lambda: CELL.unroll(CELL, start(), xs()),
        ValueError,
        r"params is lstm\(5, 4\); lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "params for the initial carry of another cell": (
        lambda: CELL.initial_carry(params(rnnjax.gru(5, 4))),
        ValueError,
        r"params is GRUParams\(.*lstm\(5, 4\) was made for LSTMParams\(.*init\(key\)",
    ),
    "cell and params swapped": (
        lambda: rnnjax.unroll(params(), CELL, xs(3, 7, 5)),
        TypeError,
        r"cell is LSTMParams\(.*expected a Cell.*Write \(cell, params, \.\.\.\)",
    ),
    "params of two dtypes": (
        lambda: batch_of(params()._replace(b=jnp.zeros(16, jnp.bfloat16))),
        TypeError,
        r"params is LSTMParams\(.*one floating dtype.*astype\(jnp.float64\)",
    ),
    "a tuple in place of a Reset": (
        lambda: run(reset=(flags(7), start())),
        TypeError,
        r"reset is \(bool\[7\], LSTMCarry.*flags.*rnnjax.Reset\(where, carry\)",
    ),
    "layers that do not fit": (
        lambda: rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.dense(4, 1)),
        ValueError,
        r"layer 0 puts out 5 features, layer 1 takes 4.*dense\(4, 1\) for inputs of 5",
    ),
    "a layer after a bidirectional one": (
        lambda: rnnjax.stack(
            rnnjax.bidirectional(rnnjax.lstm(3, 5)), rnnjax.dense(5, 1)
        ),
        ValueError,
        r"layer 0 puts out 10 features, layer 1 takes 5",
    ),
    "layers of a skip stack that do not fit": (
        lambda: rnnjax.skip_stack(rnnjax.gru(3, 8), rnnjax.gru(8, 4)),
        ValueError,
        r"layer 0 and the input together give 11 features, layer 1 takes 8",
    ),
    "parallel cells of different inputs": (
        lambda: rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(5, 4)),
        ValueError,
        r"cell 0 takes 3 features, cell 1 takes 5 .*gru\(5, 4\) for inputs of 3",
    ),
    "a sum of different outputs": (
        lambda: rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 2), merge=jnp.add),
        ValueError,
        r"merge=add does not take outputs of 4 features and 2 features.*concatenate",
    ),
    "directions of different inputs": (
        lambda: rnnjax.bidirectional(rnnjax.lstm(3, 4), rnnjax.lstm(5, 4)),
        ValueError,
        r"bidirectional: cell 0 takes 3 features, cell 1 takes 5 features",
    ),
    "highway of another output size": (
        lambda: rnnjax.highway(CELL, 5),
        ValueError,
        r"puts out 4 features, and output_size is 5.*output_size=4",
    ),
    "a function in a stack": (
        lambda: rnnjax.stack(CELL, jax.nn.relu),
        TypeError,
        r"stack got \[relu\].*one or more cells.*rnnjax.pointwise\(relu\)",
    ),
    "something other than a cell in a combinator": (
        lambda: rnnjax.residual(5),
        TypeError,
        r"cell is 5; expected a Cell.*rnnjax.lstm\(3, 4\)",
    ),
    "an activation by its name": (
        lambda: rnnjax.lstm(5, 4, activation="relu"),
        TypeError,
        r"activation is 'relu'; expected a function.*activation=jax.nn.relu",
    ),
    "no activation": (
        lambda: rnnjax.elman(5, 4, activation=None),
        TypeError,
        r"activation is None; expected a function.*activation=jax.nn.relu",
    ),
    "an array as an activation": (
        lambda: rnnjax.elman(5, 4, activation=jnp.tanh(xs())),
        TypeError,
        r"activation is float64\[7,5\]; expected a function",
    ),
    "a traversal by its name": (
        lambda: rnnjax.lstm(5, 4, traversal="fused"),
        TypeError,
        r"traversal is 'fused'; expected a function.*rnnjax.scan.fused",
    ),
    "a kernel of other equations": (
        lambda: rnnjax.lstm(
            5, 4, activation=jax.nn.relu, traversal=rnnjax.kernels.lstm
        ),
        ValueError,
        r"rnnjax.kernels.lstm computes .* by itself; .*rnnjax.scan.default",
    ),
    "a prefix scan of a step that is not affine": (
        lambda: run(cell=rnnjax.gru(5, 4, traversal=rnnjax.scan.associative)),
        ValueError,
        r"gru: a sigmoid of the carry, .*; scan.associative takes .*scan.default",
    ),
    "chunks without steps": (
        lambda: rnnjax.scan.chunked(0),
        ValueError,
        r"size is 0; expected a positive integer. Write size=8",
    ),
    "Newton's method with nothing but damping": (
        lambda: rnnjax.scan.newton(damping=1.0),
        ValueError,
        r"damping is 1.0; expected a number from 0 to less than 1.*damping=0.5",
    ),
    "a report of rounds where there are none": (
        lambda: rnnjax.newton_report(CELL, params(), start(), xs()),
        ValueError,
        r"cell is lstm\(5, 4\), of which no part walks .*scan.newton",
    ),
    "a merge by its name": (
        lambda: rnnjax.bidirectional(CELL, merge="sum"),
        TypeError,
        r"merge is 'sum'; expected a function.*merge=jnp.add",
    ),
    "a word for a number": (
        lambda: rnnjax.lstm(5, 4, forget_bias="one"),
        TypeError,
        r"forget_bias is 'one'; expected a number.*forget_bias=1.0",
    ),
    "a word for True or False": (
        lambda: rnnjax.gru(5, 4, reset_after="no"),
        TypeError,
        r"reset_after is 'no'; expected True or False.*reset_after=True",
    ),
    "a word for a rate": (
        lambda: rnnjax.dropout("half"),
        TypeError,
        r"rate is 'half'; expected a number.*rate=0.5",
    ),
    "no rate": (
        lambda: rnnjax.zoneout(CELL, None),
        TypeError,
        r"rate is None; expected a number.*rate=0.1",
    ),
    "a traced rate": (
        lambda: jax.jit(lambda rate: rnnjax.dropout(rate).init(None))(0.5),
        TypeError,
        r"rate is float64\[\]; expected a number that is known.*rate=0.5",
    ),
    "unknown names of params to drop": (
        lambda: rnnjax.drop_connect(CELL, 0.5, names=("w_xx",)),
        ValueError,
        r"names is \('w_xx',\).*fields \['b', 'w_hh', 'w_ih'\].*names=",
    ),
    "a plain string of names to drop": (
        lambda: rnnjax.drop_connect(CELL, 0.5, names="w_hh"),
        TypeError,
        r"names is 'w_hh'; expected a tuple.*names=\('w_hh',\)",
    ),
    "a step that returns only its carry": (
        lambda: run(cell=mine(lambda h: h)),
        FormError,
        r"returned float64\[5\]; expected a pair.*return carry, y",
    ),
    "a step that returns a carry of another shape": (
        lambda: run(cell=mine(lambda h: (h[:1], h))),
        FormError,
        r" returned carry as float64\[1\]; expected float64\[5\].*every step",
    ),
    "a step that returns a carry of another dtype": (
        lambda: run_step(mine(lambda h: (h.astype(jnp.bfloat16), h))),
        FormError,
        r" returned carry as bfloat16\[5\]; expected float64\[5\].*every step",
    ),
    "a step that returns a carry of another structure": (
        lambda: batch(cell=mine(lambda h: ((h, h), h))),
        FormError,
        r" returned carry as \(float64\[5\], float64\[5\]\); expected float64\[5\]",
    ),
    "a check of a cell that changes its carry": (
        lambda: rnnjax.testing.check_cell(mine(lambda h: (h[:1], h)), xs(5)),
        AssertionError,
        r"law 6 \(the carry keeps its form\).* returned carry as float64\[1\]",
    ),
    "a call of a cell": (
        lambda: CELL(xs()),
        TypeError,
        r"lstm\(5, 4\) was called.*carry, ys = rnnjax.unroll\(cell, params, xs\)",
    ),
    "more Lyapunov exponents than states": (
        lambda: rnnjax.dynamics.lyapunov(CELL, params(), start(), xs(), count=9),
        ValueError,
        r"count is 9; expected at most 8.*count=8",
    ),
    "Lyapunov exponents of no step": (
        lambda: rnnjax.dynamics.lyapunov(CELL, params(), start(), xs(), skip=7),
        ValueError,
        r"skip is 7 and xs has 7 steps.*skip=3",
    ),
    "fixed points from a carry without an axis of starts": (
        lambda: rnnjax.dynamics.fixed_points(
            rnnjax.pointwise(jnp.tanh), (), jnp.zeros(()), xs(5)
        ),
        ValueError,
        r"carries has leaves of shapes \[\(\)\]; expected the same number of starts",
    ),
    "a rule that is not called": (
        lambda: rnnjax.online.learner(CELL, rnnjax.online.rtrl),
        TypeError,
        r"rule is .*expected a Rule.*rtrl\(\), called",
    ),
    "a rule that draws, without a key": (
        lambda: learner(rnnjax.online.uoro()).init(params(), xs(5)),
        ValueError,
        r"key is None; uoro\(\) draws random numbers.*key=jax.random.key\(0\)",
    ),
    "a carry in the place of a learner's state": (
        lambda: learner(rnnjax.online.rtrl()).step(params(), start(), xs(5)),
        TypeError,
        r"state is a LSTMCarry; expected a LearnerState.*learner.init\(params, x\)",
    ),
    "units that see others": (
        lambda: learner(rnnjax.online.units()).init(params(), xs(5)),
        ValueError,
        r"in lstm\(5, 4\) unit 0 reads unit 1; expected units that see only themselves",
    ),
    "a param that moves several units": (
        lambda: learner(rnnjax.online.snap(1), STACK).init(params(STACK), xs(5)),
        ValueError,
        r"params\[0\]\.w_ih of stack\(.*moves several units in one step.*each layer",
    ),
    "a matrix that multiplies several vectors": (
        lambda: learner(rnnjax.online.kf_rtrl(), BEFORE).init(
            params(BEFORE), xs(5), key=jax.random.key(0)
        ),
        ValueError,
        r"params\.w_hh of gru\(.*multiplies several vectors in a step.*uoro\(\)",
    ),
    "truncation within a block": (
        lambda: rnnjax.online.tbptt(20, 10),
        ValueError,
        r"k2 is 10 and k1 is 20; expected to go back through a block.*tbptt\(20, 40\)",
    ),
}


@pytest.mark.parametrize(("call", "error", "sentence"), MISUSES.values(), ids=MISUSES)
def test_misuse_is_answered_by_a_sentence(call, error, sentence):
    with pytest.raises(error, match=f"(?s){sentence}"):
        call()


@pytest.mark.parametrize("name", ["wrong feature size", "carry of the wrong shape"])
def test_sentences_come_under_jit_too(name):
    call, error, sentence = MISUSES[name]
    with pytest.raises(error, match=f"(?s){sentence}"):
        jax.jit(lambda: call()[1])()


SWAPPED = {
    "unroll": lambda p: rnnjax.unroll(p, CELL, xs(3, 7, 5)),
    "static_unroll": lambda p: rnnjax.static_unroll(p, CELL, start(), xs(7, 5)),
    "trace": lambda p: rnnjax.trace(p, CELL, start(), xs(7, 5)),
    "carry_gradients": lambda p: rnnjax.carry_gradients(
        p, CELL, start(), xs(7, 5), jnp.sum
    ),
    "raw_unroll": lambda p: rnnjax.raw_unroll(
        p, CELL, start(), xs(5), lambda *given: None, steps=3
    ),
    "beam_search": lambda p: rnnjax.beam_search(
        p, CELL, start(), 1, steps=3, beams=2, end_token=0
    ),
    "streaming.init": lambda p: rnnjax.streaming.init(p, CELL, slots=2),
    "export.unroll": lambda p: rnnjax.export.unroll(p, CELL, xs(5)),
    "export.step": lambda p: rnnjax.export.step(p, CELL, xs(5)),
    "export.initial_carry": lambda p: rnnjax.export.initial_carry(p, CELL),
    "describe": lambda p: rnnjax.describe(p, xs(5)),
    "carry_spec": lambda p: rnnjax.carry_spec(p),
    "check_cell": lambda p: rnnjax.testing.check_cell(p, xs(5)),
}


@pytest.mark.parametrize("call", SWAPPED.values(), ids=SWAPPED)
def test_params_in_the_place_of_the_cell_get_the_same_sentence(call):
    sentence = r"^cell is LSTMParams\(.*; expected a Cell.* Write "
    with pytest.raises(TypeError, match=sentence):
        call(params())


def test_an_error_inside_a_stack_says_where():
    with pytest.raises(ValueError, match="xs has shape") as caught:
        run(xs(7, 6), cell=STACK)
    assert "cell 0 of the stack, lstm(5, 4)" in "".join(caught.value.__notes__)


def test_lengths_are_not_looked_at_under_jit():
    lengths = jnp.array([5, 9, -2])
    cut = jnp.array([5, 7, 0])
    wild = jax.jit(lambda n: batch(lengths=n)[1])(lengths)
    assert bool((wild == batch(lengths=cut)[1]).all())
