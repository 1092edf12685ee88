"""Write ``errors.md``: the tests' misuses: ``python docs/make_errors.py``.

The wrong lines of each entry are run, and what they raise is what the page shows; the
right ones are run when the site is built. ``tests/docs/test_docs.py`` holds the entries
against the table of misuses, so that none is missing and none says something else.
"""

import contextlib
import io
import pathlib
import tempfile
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

PAGE = pathlib.Path(__file__).with_name("errors.md")

NAMES = """\
import jax
import jax.numpy as jnp
import optax
import rnnjax
from rnnjax import training

key = jax.random.key(0)
xs = jnp.ones((7, 5))  # (time, features)
batch = jnp.ones((3, 7, 5))  # (batch, time, features)

cell = rnnjax.lstm(5, 4)
params = cell.init(key)
carry = cell.initial_carry(params)

deep = rnnjax.stack(rnnjax.lstm(5, 4), rnnjax.gru(4, 2))
deep_params = deep.init(key)
deep_carry = deep.initial_carry(deep_params)

both = rnnjax.bidirectional(rnnjax.lstm(5, 4))
both_params = both.init(key)
both_carry = both.initial_carry(both_params)

reader = rnnjax.stack(rnnjax.embedding(9, 5), rnnjax.lstm(5, 4))
reader_params = reader.init(key)
reader_carry = reader.initial_carry(reader_params)


@rnnjax.constructor
def mine(step):
    def init(key):
        return jax.random.normal(key, (5, 5))

    def initial_carry(w):
        return jnp.zeros(5, w.dtype)

    return rnnjax.recurrence(init, initial_carry, lambda w, x: x, step)


state_dict = rnnjax.interop.to_torch(cell, params).arrays
optimizer = optax.sgd(0.1)
data = jnp.ones(8)


def loss(params, batch, key):
    return jnp.mean((batch - params) ** 2), {}


def new():
    return training.init(jnp.zeros(()), optimizer, key)


train = training.epoch(loss, optimizer, batch_size=4)
"""

HEAD = f"""\
# Error messages

Written by `python docs/make_errors.py`, which runs the wrong lines and shows what comes
back. Every message names the argument, what came, what was expected and what to write.
Look for the words of yours with the search, or by the argument it begins with.

All lines use these names:

```python
{NAMES}```

Inside a stack a note after the message says which cell it came from. Under `jax.jit`
shapes and dtypes are checked all the same, when the function is traced; the values of
`lengths` are not, since they are not known then.
"""


class Entry(NamedTuple):
    """One misuse: its name in the tests' table, wrong lines, why, and right ones."""

    misuse: str
    wrong: str
    cause: str
    right: str


SECTIONS: dict[str, list[Entry]] = {
    "Inputs: `xs`, `x`": [
        Entry(
            "batch given to a single-sequence unroll",
            "cell.unroll(params, carry, jnp.ones((32, 7, 5)))",
            "A cell's own `unroll` walks one sequence; a batch has one axis more.",
            "rnnjax.unroll(cell, params, jnp.ones((32, 7, 5)))",
        ),
        Entry(
            "sequence given to step",
            "cell.step(params, carry, xs)",
            "`step` takes one example at one time, and axis 0 of this one is time.",
            "cell.unroll(params, carry, xs)",
        ),
        Entry(
            "sequence given to the batch unroll",
            "rnnjax.unroll(cell, params, xs)",
            "`rnnjax.unroll` maps over axis 0, so what is left of a single sequence "
            "has no time.",
            "cell.unroll(params, carry, xs)",
        ),
        Entry(
            "vector given to the batch unroll",
            "rnnjax.unroll(cell, params, jnp.ones(7))",
            "Neither a batch nor time can be told from one axis.",
            "rnnjax.unroll(cell, params, jnp.ones((1, 7, 5)))",
        ),
        Entry(
            "wrong feature size",
            "cell.unroll(params, carry, jnp.ones((7, 6)))",
            "The cell was made for another number of features, or time and features "
            "stand the other way round.",
            "six = rnnjax.lstm(6, 4)\n"
            "given = six.init(key)\n"
            "six.unroll(given, six.initial_carry(given), jnp.ones((7, 6)))",
        ),
        Entry(
            "wrong feature size in step",
            "cell.step(params, carry, jnp.ones(6))",
            "As above, for one step.",
            "cell.step(params, carry, jnp.ones(5))",
        ),
        Entry(
            "integer inputs",
            "cell.unroll(params, carry, jnp.ones((7, 5), int))",
            "Pixels as uint8, or the ids of tokens. Numbers are cast and scaled, ids "
            "are looked up in a table.",
            "cell.unroll(params, carry, jnp.ones((7, 5), int).astype(jnp.float32))\n"
            "reader.unroll(reader_params, reader_carry, jnp.ones(7, int))",
        ),
        Entry(
            "integer input to step",
            "cell.step(params, carry, jnp.ones(5, int))",
            "As above, for one step.",
            "cell.step(params, carry, jnp.ones(5, int).astype(jnp.float32))",
        ),
        Entry(
            "floating tokens",
            "reader.unroll(reader_params, reader_carry, jnp.ones(7))",
            "An embedding looks up rows by integers; these ids became floating on "
            "their way, for example in a NumPy array beside real numbers.",
            "tokens = jnp.ones(7).astype(jnp.int32)\n"
            "reader.unroll(reader_params, reader_carry, tokens)",
        ),
        Entry(
            "zero-length time",
            "cell.unroll(params, carry, jnp.ones((0, 5)))",
            "An array without steps, often a slice beyond the end.",
            "cell.unroll(params, carry, xs, mask=jnp.zeros(7, bool))  # no step counts",
        ),
        Entry(
            "zero-length time in a batch",
            "rnnjax.unroll(cell, params, jnp.ones((3, 0, 5)))",
            "As above. A single empty sequence in a batch is a length of 0.",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([7, 0, 7]))",
        ),
        Entry(
            "ragged leaves",
            "rnnjax.pointwise(lambda x: x[0]).unroll((), (), (xs, xs[:6]))",
            "All arrays of a pytree of inputs share axis 0, the time.",
            "rnnjax.pointwise(lambda x: x[0]).unroll((), (), (xs, xs))",
        ),
        Entry(
            "a dictionary as xs",
            'cell.unroll(params, carry, {"pixels": xs})',
            "This cell takes one array. Others, such as a cell of your own "
            "without an `input_shape`, take any pytree.",
            "cell.unroll(params, carry, xs)",
        ),
        Entry(
            "a string as xs",
            'cell.unroll(params, carry, "abc")',
            "Text becomes the ids of tokens first.",
            'tokens = jnp.array([ord(c) - ord("a") for c in "abc"])\n'
            "reader.unroll(reader_params, reader_carry, tokens)",
        ),
        Entry(
            "nothing as xs",
            "cell.unroll(params, carry, None)",
            "Often a function that forgot to return its data.",
            "cell.unroll(params, carry, xs)",
        ),
        Entry(
            "an object as xs",
            "cell.unroll(params, carry, object())",
            "A tensor of torch, a table of pandas or a file of h5py is no "
            "JAX array either.",
            "import numpy as np\n\ncell.unroll(params, carry, np.asarray(xs))",
        ),
        Entry(
            "an object as the input of a step",
            "cell.step(params, carry, object())",
            "As above, for one step.",
            "cell.step(params, carry, xs[0])",
        ),
        Entry(
            "a dictionary given to the batch unroll",
            'rnnjax.unroll(cell, params, {"pixels": object()})',
            "Whatever the cell takes, its leaves are arrays.",
            "rnnjax.unroll(cell, params, batch)",
        ),
    ],
    "`params`": [
        Entry(
            "params of another cell",
            "cell.unroll(rnnjax.gru(5, 4).init(key), carry, xs)",
            "Cells hold no weights, so any params can be handed to any cell; these are "
            "not of this one's form.",
            "cell.unroll(cell.init(key), carry, xs)",
        ),
        Entry(
            "params of another cell in step",
            "cell.step(rnnjax.lstm(3, 4).init(key), carry, xs[0])",
            "As above: the same kind of cell, made for other sizes.",
            "cell.step(cell.init(key), carry, xs[0])",
        ),
        Entry(
            "params of an ensemble",
            "members = jax.vmap(cell.init)(jax.random.split(key, 3))\n"
            "rnnjax.unroll(cell, members, batch)",
            "Every array has an axis of members in front. Map over it.",
            "members = jax.vmap(cell.init)(jax.random.split(key, 3))\n"
            "jax.vmap(lambda params: rnnjax.unroll(cell, params, batch))(members)",
        ),
        Entry(
            "params that would broadcast",
            "rnnjax.unroll(cell, rnnjax.elman(5, 4).init(key), batch)",
            "Arrays of other shapes may broadcast to numbers that mean "
            "nothing, so they are compared with those that `cell.init` "
            "makes, before anything runs.",
            "rnnjax.unroll(cell, cell.init(key), batch)",
        ),
        Entry(
            "a bias without units",
            "flat = params._replace(b=jnp.zeros(()))\nrnnjax.unroll(cell, flat, batch)",
            "One number would be added to all gates.",
            "flat = params._replace(b=jnp.zeros(16))\nrnnjax.unroll(cell, flat, batch)",
        ),
        Entry(
            "params of a GRU that resets after the product",
            "before = rnnjax.gru(5, 4, reset_after=False)\n"
            "rnnjax.unroll(before, rnnjax.gru(5, 4).init(key), batch)",
            "The two GRUs are different functions, and only one has `b_hn`.",
            "before = rnnjax.gru(5, 4, reset_after=False)\n"
            "rnnjax.unroll(before, before.init(key), batch)",
        ),
        Entry(
            "params of a wider dense layer",
            "read_out = rnnjax.dense(5, 2)\n"
            "rnnjax.unroll(read_out, rnnjax.dense(5, 4).init(key), batch)",
            "A layer of another size.",
            "read_out = rnnjax.dense(5, 2)\n"
            "rnnjax.unroll(read_out, read_out.init(key), batch)",
        ),
        Entry(
            "params of another table",
            "longer = rnnjax.stack(rnnjax.embedding(20, 5), rnnjax.lstm(5, 4))\n"
            "rnnjax.unroll(reader, longer.init(key), jnp.ones((3, 7), int))",
            "The vocabulary has changed since. The path says which array "
            "of the stack it is.",
            "rnnjax.unroll(reader, reader_params, jnp.ones((3, 7), int))",
        ),
        Entry(
            "no params",
            "cell.unroll(None, carry, xs)",
            "Params are made by `init`, once, and handed in at each call.",
            "cell.unroll(cell.init(key), carry, xs)",
        ),
        Entry(
            "no params for a batch",
            "rnnjax.unroll(cell, None, batch)",
            "As above.",
            "rnnjax.unroll(cell, cell.init(key), batch)",
        ),
        Entry(
            "params as a dictionary",
            "rnnjax.unroll(cell, params._asdict(), batch)",
            "A checkpoint may give back dictionaries. Params have the very "
            "type that `init` returns.",
            "rnnjax.unroll(cell, rnnjax.LSTMParams(**params._asdict()), batch)",
        ),
        Entry(
            "params as a list",
            "deep.unroll(list(deep_params), deep_carry, xs)",
            "Those of a stack are a tuple with an entry for each layer.",
            "deep.unroll(tuple(list(deep_params)), deep_carry, xs)",
        ),
        Entry(
            "params as a plain tuple",
            "cell.unroll(tuple(params), carry, xs)",
            "A plain tuple does not say which array is which.",
            "cell.unroll(rnnjax.LSTMParams(*params), carry, xs)",
        ),
        Entry(
            "a cell in place of its params",
            "cell.unroll(cell, carry, xs)",
            "A cell has no arrays in it; they are in its params.",
            "cell.unroll(params, carry, xs)",
        ),
        Entry(
            "params for the initial carry of another cell",
            "cell.initial_carry(rnnjax.gru(5, 4).init(key))",
            "The dtype of the carry, and sometimes its values, come from the params.",
            "cell.initial_carry(params)",
        ),
        Entry(
            "cell and params swapped",
            "rnnjax.unroll(params, cell, batch)",
            "The cell comes first, as the object of a method would.",
            "rnnjax.unroll(cell, params, batch)",
        ),
        Entry(
            "params of two dtypes",
            "mixed = params._replace(b=params.b.astype(jnp.bfloat16))\n"
            "rnnjax.unroll(cell, mixed, batch)",
            "The params of one cell are computed with in one dtype. For "
            "sums in float32 beside bfloat16 weights write "
            "`carry_dtype=jnp.float32` where the cell is made.",
            "half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)\n"
            "rnnjax.unroll(cell, half, batch)",
        ),
    ],
    "`carry`": [
        Entry(
            "carry of another structure",
            "cell.unroll(params, jnp.zeros(4), xs)",
            "An LSTM has two states. What a cell carries is `rnnjax.carry_spec(cell)`.",
            "cell.unroll(params, cell.initial_carry(params), xs)",
        ),
        Entry(
            "(h, c) as a plain tuple",
            "cell.unroll(params, (jnp.zeros(4), jnp.zeros(4)), xs)",
            "torch and Keras order it (h, c), Flax and TensorFlow (c, h); a plain "
            "tuple does not say which it is.",
            "cell.unroll(params, rnnjax.LSTMCarry(c=jnp.zeros(4), h=jnp.zeros(4)), xs)",
        ),
        Entry(
            "no carry",
            "cell.unroll(params, None, xs)",
            "A cell's own `unroll` makes no carry; `rnnjax.unroll` does.",
            "cell.unroll(params, cell.initial_carry(params), xs)",
        ),
        Entry(
            "carry of the wrong shape",
            "cell.unroll(params, rnnjax.LSTMCarry(jnp.zeros(6), jnp.zeros(6)), xs)",
            "A carry from a cell of another size.",
            "cell.unroll(params, cell.initial_carry(params), xs)",
        ),
        Entry(
            "carry of a batch",
            "many = rnnjax.LSTMCarry(jnp.zeros((3, 4)), jnp.zeros((3, 4)))\n"
            "cell.unroll(params, many, xs)",
            "The carry of a batch, as `rnnjax.unroll` returns it, at a cell's own "
            "`unroll`.",
            "many = rnnjax.LSTMCarry(jnp.zeros((3, 4)), jnp.zeros((3, 4)))\n"
            "rnnjax.unroll(cell, params, batch, carry=many)",
        ),
        Entry(
            "carry of one example in a batch",
            "rnnjax.unroll(cell, params, batch, carry=carry)",
            "Each example of a batch has a carry. The initial one is made if none is "
            "given.",
            "many = jax.tree.map(lambda a: jnp.stack([a] * 3), carry)\n"
            "rnnjax.unroll(cell, params, batch, carry=many)",
        ),
        Entry(
            "carry of the wrong dtype",
            "half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), carry)\n"
            "cell.unroll(params, half, xs)",
            "The carry has the dtype of the params; one of them was cast without the "
            "other.",
            "as_params = jax.tree.map(lambda a: a.astype(jnp.float32), carry)\n"
            "cell.unroll(params, as_params, xs)",
        ),
        Entry(
            "carry of the wrong dtype in step",
            "half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), carry)\n"
            "cell.step(params, half, xs[0])",
            "As above, for one step.",
            "cell.step(params, cell.initial_carry(params), xs[0])",
        ),
        Entry(
            "carry of a stack with an entry missing",
            "deep.unroll(deep_params, (carry,), xs)",
            "The carry of a stack has an entry for each layer, `()` for those without "
            "a memory.",
            "deep.unroll(deep_params, deep.initial_carry(deep_params), xs)",
        ),
        Entry(
            "carry of a stack in the wrong order",
            "deep.unroll(deep_params, deep_carry[::-1], xs)",
            "The entries stand in the order of the layers.",
            "deep.unroll(deep_params, deep_carry, xs)",
        ),
    ],
    "`lengths`": [
        Entry(
            "lengths longer than time",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, 8, 7]))",
            "A sequence was cut when it was padded, and its length was not; or the "
            "length counts from another place.",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, 7, 7]))",
        ),
        Entry(
            "negative lengths",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, -1, 7]))",
            "Often a length of which one was taken away.",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, 0, 7]))",
        ),
        Entry(
            "lengths of the wrong shape",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([[5, 6, 7]]))",
            "One integer for each sequence of the batch, in one axis.",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, 6, 7]))",
        ),
        Entry(
            "lengths of time-major data",
            "time_major = jnp.ones((7, 3, 5))\n"
            "rnnjax.unroll(cell, params, time_major, lengths=jnp.array([5, 6, 7]))",
            "`xs` is `(time, batch, features)`, and `rnnjax.unroll` wants the batch in "
            "front.",
            "time_major = jnp.ones((7, 3, 5))\n"
            "given = jnp.swapaxes(time_major, 0, 1)\n"
            "rnnjax.unroll(cell, params, given, lengths=jnp.array([5, 6, 7]))",
        ),
        Entry(
            "floating lengths",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5.0, 6.0, 7.0]))",
            "Lengths count steps.",
            "rnnjax.unroll(cell, params, batch, lengths=jnp.array([5, 6, 7]))",
        ),
    ],
    "`mask` and `reset`": [
        Entry(
            "mask of the wrong shape",
            "cell.unroll(params, carry, xs, mask=jnp.ones(6, bool))",
            "One flag for each time step of `xs`.",
            "cell.unroll(params, carry, xs, mask=jnp.ones(7, bool))",
        ),
        Entry(
            "mask of a batch",
            "cell.unroll(params, carry, xs, mask=jnp.ones((3, 7), bool))",
            "A cell's own `unroll` walks one sequence.",
            "rnnjax.unroll(cell, params, batch, mask=jnp.ones((3, 7), bool))",
        ),
        Entry(
            "mask of the wrong shape for a batch",
            "rnnjax.unroll(cell, params, batch, mask=jnp.ones(7, bool))",
            "In a batch each sequence has its mask.",
            "mask = jnp.broadcast_to(jnp.ones(7, bool), (3, 7))\n"
            "rnnjax.unroll(cell, params, batch, mask=mask)",
        ),
        Entry(
            "mask of the wrong dtype",
            "cell.unroll(params, carry, xs, mask=jnp.ones(7))",
            "A mask chooses; numbers would be weights, which belong in the loss.",
            "cell.unroll(params, carry, xs, mask=jnp.ones(7) != 0)",
        ),
        Entry(
            "mask of the wrong dtype for a batch",
            "rnnjax.unroll(cell, params, batch, mask=jnp.ones((3, 7), int))",
            "As above; many data sets store masks as 0 and 1.",
            "rnnjax.unroll(cell, params, batch, mask=jnp.ones((3, 7), int) != 0)",
        ),
        Entry(
            "reset of the wrong shape",
            "cell.unroll(params, carry, xs, reset=jnp.ones(6, bool))",
            "One flag for each time step of `xs`. From `done` flags: a reset stands "
            "one step later.",
            "done = jnp.zeros(7, bool).at[3].set(True)\n"
            "starts = jnp.roll(done, 1).at[0].set(True)\n"
            "cell.unroll(params, carry, xs, reset=starts)",
        ),
        Entry(
            "reset of the wrong dtype",
            "cell.unroll(params, carry, xs, reset=jnp.ones(7, int))",
            "A reset is a flag.",
            "cell.unroll(params, carry, xs, reset=jnp.ones(7, int) != 0)",
        ),
        Entry(
            "reset of a backward cell",
            "both.unroll(both_params, both_carry, xs, reset=jnp.ones(6, bool))",
            "Backwards the same flags are used, one for each step.",
            "both.unroll(both_params, both_carry, xs, reset=jnp.ones(7, bool))",
        ),
        Entry(
            "reset to a carry of the wrong shape",
            "three = rnnjax.LSTMCarry(jnp.zeros(3), jnp.zeros(3))\n"
            "start = rnnjax.Reset(jnp.ones(7, bool), three)\n"
            "cell.unroll(params, carry, xs, reset=start)",
            "What a `Reset` brings is a carry of this very cell.",
            "start = rnnjax.Reset(jnp.ones(7, bool), carry)\n"
            "cell.unroll(params, carry, xs, reset=start)",
        ),
        Entry(
            "reset of a stack to too few carries",
            "start = rnnjax.Reset(jnp.ones(7, bool), (carry,))\n"
            "deep.unroll(deep_params, deep_carry, xs, reset=start)",
            "For a stack it is a tuple with an entry for each layer.",
            "start = rnnjax.Reset(jnp.ones(7, bool), deep_carry)\n"
            "deep.unroll(deep_params, deep_carry, xs, reset=start)",
        ),
        Entry(
            "a tuple in place of a Reset",
            "cell.unroll(params, carry, xs, reset=(jnp.ones(7, bool), carry))",
            "A `Reset` names its two parts.",
            "start = rnnjax.Reset(where=jnp.ones(7, bool), carry=carry)\n"
            "cell.unroll(params, carry, xs, reset=start)",
        ),
    ],
    "`key`": [
        Entry(
            "legacy key",
            "cell.init(jax.random.PRNGKey(0))",
            "`PRNGKey` makes a plain array of two integers, which nothing can tell "
            "from data. A typed key is another dtype.",
            "cell.init(jax.random.key(0))",
        ),
        Entry(
            "missing key",
            "cell.init(None)",
            "There is no hidden seed: the same key makes the same params.",
            "cell.init(jax.random.key(0))",
        ),
        Entry(
            "a number as a key",
            "deep.init(0)",
            "A seed is not yet a key.",
            "deep.init(jax.random.key(0))",
        ),
        Entry(
            "several keys",
            "cell.init(jax.random.split(key))",
            "One key makes one set of params. For an ensemble map over the keys.",
            "jax.vmap(cell.init)(jax.random.split(key))",
        ),
        Entry(
            "legacy key in unroll",
            "cell.unroll(params, carry, xs, key=jax.random.PRNGKey(0))",
            "As above. Cells without random numbers refuse it too, so that it shows "
            "before dropout is put in.",
            "cell.unroll(params, carry, xs, key=jax.random.key(0))",
        ),
        Entry(
            "legacy key for a batch",
            "rnnjax.unroll(cell, params, batch, key=jax.random.PRNGKey(0))",
            "As above. One key is enough: it is split for the examples.",
            "rnnjax.unroll(cell, params, batch, key=jax.random.key(0))",
        ),
    ],
    "Making a cell": [
        Entry(
            "one size alone",
            "rnnjax.lstm(4)",
            "The input features come first, then the units: params are made before "
            "any input is seen.",
            "rnnjax.lstm(5, 4)",
        ),
        Entry(
            "hidden size of zero",
            "rnnjax.lstm(5, 0)",
            "Sizes are positive integers.",
            "rnnjax.lstm(5, 8)",
        ),
        Entry(
            "floating input size",
            "rnnjax.gru(5.0, 4)",
            "Often the result of `/`; write `//`.",
            "rnnjax.gru(10 // 2, 4)",
        ),
        Entry(
            "an array as an argument of a cell",
            "rnnjax.lstm(5, 4, forget_bias=jnp.ones(4))",
            "Arguments of a cell are plain numbers. Arrays are params: replace them "
            "there.",
            "params._replace(b=params.b.at[4:8].set(jnp.ones(4)))  # gates i f g o",
        ),
        Entry(
            "dropout of everything",
            "rnnjax.dropout(1.0)",
            "The rate is the share that is dropped, not TensorFlow's `keep_prob`.",
            "rnnjax.dropout(0.1)",
        ),
        Entry(
            "an empty stack",
            "rnnjax.stack()",
            "A list of layers that is empty, written with a star.",
            "rnnjax.stack(rnnjax.lstm(5, 4))",
        ),
        Entry(
            "a list of cells",
            "rnnjax.stack([rnnjax.lstm(5, 4), rnnjax.gru(4, 2)])",
            "Layers are arguments.",
            "layers = [rnnjax.lstm(5, 4), rnnjax.gru(4, 2)]\nrnnjax.stack(*layers)",
        ),
        Entry(
            "layers that do not fit",
            "rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.dense(4, 1))",
            "Each layer reads what the one before puts out.",
            "rnnjax.stack(rnnjax.lstm(3, 5), rnnjax.dense(5, 1))",
        ),
        Entry(
            "a layer after a bidirectional one",
            "rnnjax.stack(rnnjax.bidirectional(rnnjax.lstm(3, 5)), rnnjax.dense(5, 1))",
            "A bidirectional layer puts out the features of both directions.",
            "rnnjax.stack(rnnjax.bidirectional(rnnjax.lstm(3, 5)), "
            "rnnjax.dense(10, 1))",
        ),
        Entry(
            "layers of a skip stack that do not fit",
            "rnnjax.skip_stack(rnnjax.gru(3, 8), rnnjax.gru(8, 4))",
            "Each layer but the first reads the input too.",
            "rnnjax.skip_stack(rnnjax.gru(3, 8), rnnjax.gru(3 + 8, 4))",
        ),
        Entry(
            "parallel cells of different inputs",
            "rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(5, 4))",
            "All of them read the same input.",
            "rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 4))",
        ),
        Entry(
            "a sum of different outputs",
            "rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 2), merge=jnp.add)",
            "Outputs of different sizes can be concatenated, which is the "
            "default, and not added.",
            "rnnjax.parallel(rnnjax.lstm(3, 4), rnnjax.gru(3, 4), merge=jnp.add)",
        ),
        Entry(
            "directions of different inputs",
            "rnnjax.bidirectional(rnnjax.lstm(3, 4), rnnjax.lstm(5, 4))",
            "Both directions read the same sequence.",
            "rnnjax.bidirectional(rnnjax.lstm(3, 4), rnnjax.lstm(3, 2))",
        ),
        Entry(
            "residual of unequal sizes",
            "rnnjax.residual(cell)",
            "Input and output are added, so they need one shape. A dense "
            "layer beside the cell makes it.",
            "wide = rnnjax.parallel(cell, rnnjax.dense(5, 4), merge=jnp.add)\n"
            "rnnjax.unroll(wide, wide.init(key), batch)",
        ),
        Entry(
            "highway of another output size",
            "rnnjax.highway(cell, 5)",
            "The gate chooses between input and output, feature by feature.",
            "rnnjax.highway(cell, 5, output_size=4)",
        ),
        Entry(
            "a function in a stack",
            "rnnjax.stack(cell, jax.nn.relu)",
            "A stack is made of cells; a function of one input becomes one.",
            "rnnjax.stack(cell, rnnjax.pointwise(jax.nn.relu))",
        ),
        Entry(
            "something other than a cell in a combinator",
            "rnnjax.residual(5)",
            "Combinators take cells.",
            "rnnjax.residual(rnnjax.gru(5, 5))",
        ),
        Entry(
            "an activation by its name",
            'rnnjax.lstm(5, 4, activation="relu")',
            "Functions are handed over as they are, not by name.",
            "rnnjax.lstm(5, 4, activation=jax.nn.relu)",
        ),
        Entry(
            "no activation",
            "rnnjax.elman(5, 4, activation=None)",
            "A linear cell has the identity.",
            "rnnjax.elman(5, 4, activation=lambda x: x)",
        ),
        Entry(
            "an array as an activation",
            "rnnjax.elman(5, 4, activation=jnp.tanh(xs))",
            "The function, without a call.",
            "rnnjax.elman(5, 4, activation=jnp.tanh)",
        ),
        Entry(
            "a traversal by its name",
            'rnnjax.lstm(5, 4, traversal="fused")',
            "Traversals are functions too, see [scan](api/scan.md).",
            "rnnjax.lstm(5, 4, traversal=rnnjax.scan.fused)",
        ),
        Entry(
            "a kernel of other equations",
            "rnnjax.lstm(5, 4, activation=jax.nn.relu, traversal=rnnjax.kernels.lstm)",
            "A kernel computes its own cell and calls no function of yours.",
            "rnnjax.lstm(5, 4, activation=jax.nn.relu)",
        ),
        Entry(
            "a prefix scan of a step that is not affine",
            "gru = rnnjax.gru(5, 4, traversal=rnnjax.scan.associative)\n"
            "weights = gru.init(key)\n"
            "gru.unroll(weights, gru.initial_carry(weights), xs)",
            "What stands before the semicolon is in the step, see\n"
            "[choosing how time is walked](walks.md).",
            "gru = rnnjax.gru(5, 4, traversal=rnnjax.scan.newton())\n"
            "weights = gru.init(key)\n"
            "gru.unroll(weights, gru.initial_carry(weights), xs)",
        ),
        Entry(
            "chunks without steps",
            "rnnjax.scan.chunked(0)",
            "About the square root of the sequence's length is a good size.",
            "rnnjax.scan.chunked(32)",
        ),
        Entry(
            "Newton's method with nothing but damping",
            "rnnjax.scan.newton(damping=1.0)",
            "Zero is Newton's method itself; most recurrences need no damping.",
            "rnnjax.scan.newton(damping=0.5)",
        ),
        Entry(
            "a report of rounds where there are none",
            "rnnjax.newton_report(cell, params, carry, xs)",
            "Only `scan.newton` takes rounds, of which there is something to report.",
            "solved = rnnjax.lstm(5, 4, traversal=rnnjax.scan.newton())\n"
            "rnnjax.newton_report(solved, params, carry, xs)",
        ),
        Entry(
            "a merge by its name",
            'rnnjax.bidirectional(cell, merge="sum")',
            "Keras has words for it; here it is a function of the outputs.",
            "rnnjax.bidirectional(cell, merge=jnp.add)",
        ),
        Entry(
            "a word for a number",
            'rnnjax.lstm(5, 4, forget_bias="one")',
            "Often an argument of the command line that was not converted.",
            'rnnjax.lstm(5, 4, forget_bias=float("1"))',
        ),
        Entry(
            "a word for True or False",
            'rnnjax.gru(5, 4, reset_after="no")',
            "A word that is not empty would count as True.",
            "rnnjax.gru(5, 4, reset_after=False)",
        ),
        Entry(
            "a word for a rate",
            'rnnjax.dropout("half")',
            "As above.",
            "rnnjax.dropout(0.5)",
        ),
        Entry(
            "no rate",
            "rnnjax.zoneout(cell, None)",
            "A rate of zero keeps nothing back.",
            "rnnjax.zoneout(cell, 0.0)",
        ),
        Entry(
            "a traced rate",
            "jax.jit(lambda rate: rnnjax.dropout(rate).init(key))(0.5)",
            "A cell is made outside of what is compiled. Change the rate "
            "by another cell.",
            "dropped = rnnjax.dropout(0.5)\n"
            "jax.jit(lambda x: dropped.unroll((), (), x, key=key)[1])(xs)",
        ),
        Entry(
            "unknown names of params to drop",
            'rnnjax.drop_connect(cell, 0.5, names=("w_xx",))',
            "The names are the fields of the params.",
            'rnnjax.drop_connect(cell, 0.5, names=("w_hh",))',
        ),
        Entry(
            "a plain string of names to drop",
            'rnnjax.drop_connect(cell, 0.5, names="w_hh")',
            "A string is a sequence of letters; a tuple of one needs its comma.",
            'rnnjax.drop_connect(cell, 0.5, names=("w_hh",))',
        ),
    ],
    "Running a cell": [
        Entry(
            "step of a bidirectional cell",
            "both.step(both_params, both_carry, xs[0])",
            "Backwards, the first step is the last one of the sequence: there is no "
            "single step, and no streaming.",
            "both.unroll(both_params, both_carry, xs)",
        ),
        Entry(
            "a name that is not in a trace",
            'rnnjax.trace(cell, params, carry, xs)["gate"]',
            "The names are those that the cell gives to `rnnjax.observe`; printing the "
            "trace shows them.",
            'rnnjax.trace(cell, params, carry, xs)["f"]',
        ),
        Entry(
            "a step that returns only its carry",
            "def step(w, h, x):\n"
            "    return jnp.tanh(h @ w + x)\n"
            "\n"
            "\n"
            "own = mine(step)\n"
            "own.unroll(own.init(key), jnp.zeros(5), xs)",
            "A step returns the next carry and the output, which may be "
            "the same array.",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h, h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
        ),
        Entry(
            "a step that returns a carry of another shape",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h[:1], h\n"
            "\n"
            "\n"
            "own = mine(step)\n"
            "own.unroll(own.init(key), jnp.zeros(5), xs)",
            "The carry is what the next step gets, so it keeps its shape.",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h, h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
        ),
        Entry(
            "a step that returns a carry of another dtype",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h.astype(jnp.bfloat16), h\n"
            "\n"
            "\n"
            "own = mine(step)\n"
            "own.step(own.init(key), jnp.zeros(5), xs[0])",
            "It keeps its dtype, that of the params.",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h, h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
        ),
        Entry(
            "a step that returns a carry of another structure",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return (h, h), h\n"
            "\n"
            "\n"
            "own = mine(step)\n"
            "rnnjax.unroll(own, own.init(key), batch)",
            "What `initial_carry` makes, every step returns.",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h, h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
        ),
        Entry(
            "a check of a cell that changes its carry",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h[:1], h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
            "`check_cell` names the law that is broken.",
            "def step(w, h, x):\n"
            "    h = jnp.tanh(h @ w + x)\n"
            "    return h, h\n"
            "\n"
            "\n"
            "rnnjax.testing.check_cell(mine(step), xs[0])",
        ),
        Entry(
            "a call of a cell",
            "cell(xs)",
            "A cell is data: four functions and a description. Params and "
            "carry are handed in.",
            "rnnjax.unroll(cell, params, batch)",
        ),
    ],
    "Padding and decoding": [
        Entry(
            "padding that the sequences cannot hold",
            "rnnjax.pad_sequences([[1, 2, 3], [4]], value=-0.5)",
            "Padding has the dtype of the sequences, here integers.",
            "rnnjax.pad_sequences([[1, 2, 3], [4]], value=-1)\n"
            "rnnjax.pad_sequences([[1.0, 2.0, 3.0], [4.0]], value=-0.5)",
        ),
        Entry(
            "a temperature below zero",
            "rnnjax.sample(key, jnp.ones(9), temperature=-1.0)",
            "Logits are divided by it. Zero is allowed and takes the most likely "
            "token.",
            "rnnjax.sample(key, jnp.ones(9), temperature=0.0)",
        ),
        Entry(
            "a top_k of zero",
            "rnnjax.sample(key, jnp.ones(9), top_k=0)",
            "No token would be left to draw. Without a limit leave it out.",
            "rnnjax.sample(key, jnp.ones(9))",
        ),
        Entry(
            "a top_p above one",
            "rnnjax.sample(key, jnp.ones(9), top_p=90)",
            "It is a probability and not a percentage.",
            "rnnjax.sample(key, jnp.ones(9), top_p=0.9)",
        ),
        Entry(
            "an output that cannot be the next input",
            "rnnjax.scheduled_outputs(cell, params, carry, xs, 0.5, key=key)",
            "The cell has 4 outputs and 5 inputs. A last layer makes as many outputs "
            "as there are inputs.",
            "even = rnnjax.stack(cell, rnnjax.dense(4, 5))\n"
            "even_params = even.init(key)\n"
            "start = even.initial_carry(even_params)\n"
            "rnnjax.scheduled_outputs(even, even_params, start, xs, 0.5, key=key)",
        ),
        Entry(
            "a coverage penalty without attention",
            'given = {"steps": 9, "beams": 3, "end_token": 2}\n'
            'given["coverage_penalty"] = 0.2\n'
            "rnnjax.beam_search(reader, reader_params, reader_carry, 1, **given)",
            "Coverage is how much of a memory a sequence has looked at, which only "
            "attention tells.",
            'given = {"steps": 9, "beams": 3, "end_token": 2}\n'
            "rnnjax.beam_search(reader, reader_params, reader_carry, 1, **given)",
        ),
        Entry(
            "a score bias without monotonic attention",
            "rnnjax.attention(cell, 1, 4, (7, 8), score_bias=-4.0)",
            "A bias that all scores share changes no softmax.",
            'rnnjax.attention(cell, 1, 4, (7, 8), monotonic="soft", score_bias=-4.0)',
        ),
    ],
    "Weights in and out": [
        Entry(
            "the state_dict of a whole model",
            'whole = {f"rnn.{name}": a for name, a in state_dict.items()}\n'
            "rnnjax.interop.from_torch(whole)",
            "Conversions read recurrent layers and nothing else; in a model their "
            "names have that of the attribute in front.",
            'whole = {f"rnn.{name}": a for name, a in state_dict.items()}\n'
            'rnnjax.interop.from_torch(whole, prefix="rnn.")',
        ),
        Entry(
            "one bias of two",
            'less = {n: a for n, a in state_dict.items() if n != "bias_hh_l0"}\n'
            "rnnjax.interop.from_torch(less)",
            "A module of torch has two biases, or none with `bias=False`. One that was "
            "lost would make another function.",
            "rnnjax.interop.from_torch(state_dict)  # as the module gives it",
        ),
        Entry(
            "weights of two dtypes",
            'matrix = state_dict["weight_hh_l0"].astype("float16")\n'
            'rnnjax.interop.from_torch(state_dict | {"weight_hh_l0": matrix})',
            "A cell computes in one dtype, that of its params. Choose it for all.",
            'same = {name: a.astype("float32") for name, a in state_dict.items()}\n'
            "rnnjax.interop.from_torch(same)",
        ),
        Entry(
            "params and cell swapped in a conversion",
            "rnnjax.interop.to_keras(params, cell)",
            "The cell comes first, here as in `rnnjax.unroll`.",
            "rnnjax.interop.to_keras(cell, params)",
        ),
        Entry(
            "a GRU that the other library does not have",
            "before = rnnjax.gru(5, 4, reset_after=False)\n"
            "rnnjax.interop.to_torch(before, before.init(key))",
            "Torch, cuDNN and Keras by default reset after the product, TensorFlow 1 "
            "and Haiku before it. The weights of one cannot be those of the other.",
            "rnnjax.interop.to_torch(rnnjax.gru(5, 4), rnnjax.gru(5, 4).init(key))\n"
            "before = rnnjax.gru(5, 4, reset_after=False)\n"
            "rnnjax.interop.to_haiku(before, before.init(key))",
        ),
        Entry(
            "an ONNX node with the state that it starts from",
            'node = {"W": jnp.ones((1, 4, 5)), "R": jnp.ones((1, 4, 4))}\n'
            'node["initial_h"] = jnp.ones((1, 1, 4))\n'
            'rnnjax.interop.from_onnx_weights("RNN", node)',
            "A state is no weight: ignored, it would make another function in "
            "silence. Pass it when you run the cell.",
            'node = {"W": jnp.ones((1, 4, 5)), "R": jnp.ones((1, 4, 4))}\n'
            'found = rnnjax.interop.from_onnx_weights("RNN", node)\n'
            "found.cell.unroll(found.params, jnp.ones(4), xs)",
        ),
    ],
    "Training": [
        Entry(
            "a folder that holds another run",
            "for _ in range(2):\n"
            '    training.fit(train, new(), data, epochs=1, out="run", config={})',
            "The program was started again, and the checkpoint of the first run would "
            "be lost.",
            "training.fit("
            'train, new(), data, epochs=1, out="run", config={}, overwrite=True)',
        ),
        Entry(
            "a config with NaN",
            'config = {"rate": jnp.nan}\n'
            'training.fit(train, new(), data, epochs=1, out="nan", config=config)',
            "NaN is not equal to itself, so the run could never be resumed.",
            'config = {"rate": None}\n'
            'training.fit(train, new(), data, epochs=1, out="nan", config=config)',
        ),
        Entry(
            "a config that is not JSON",
            'config = {"rate": jnp.float32(0.1)}\n'
            'training.fit(train, new(), data, epochs=1, out="array", config=config)',
            "The config is written into the checkpoint as JSON, which has numbers and "
            "no arrays.",
            'config = {"rate": 0.1}\n'
            'training.fit(train, new(), data, epochs=1, out="array", config=config)',
        ),
        Entry(
            "more epochs of a schedule over the whole run",
            'config = {"epochs": 1}\n'
            'training.fit(train, new(), data, epochs=1, out="cycle", config=config)\n'
            'training.resume("cycle", new(), {"epochs": 2})',
            "Where the rate depends on the number of epochs, train anew. Where it does "
            "not, leave the number out of the config.",
            'training.fit(train, new(), data, epochs=1, out="rate", config={})\n'
            'state, history = training.resume("rate", new(), {})\n'
            "training.fit("
            'train, state, data, epochs=2, out="rate", config={}, history=history)',
        ),
        Entry(
            "a mesh that is none",
            "training.epoch(loss, optimizer, batch_size=4, mesh=jax.devices())",
            "A mesh gives names to the axes along which devices stand.",
            'mesh = jax.make_mesh((1,), ("data",))\n'
            "training.epoch(loss, optimizer, batch_size=4, mesh=mesh)",
        ),
        Entry(
            "a mesh without an axis for data",
            'mesh = jax.make_mesh((1,), ("model",))\n'
            "training.epoch(loss, optimizer, batch_size=4, mesh=mesh)",
            "Examples are divided over the axis of that name, and other axes repeat "
            "them.",
            'mesh = jax.make_mesh((1, 1), ("data", "model"))\n'
            "training.epoch(loss, optimizer, batch_size=4, mesh=mesh)",
        ),
        Entry(
            "an iterator without a number of steps",
            "batches = iter([data, data])\n"
            'training.fit(train, new(), batches, epochs=1, out="steps", config={})',
            "An iterator may go on for ever; a checkpoint is saved after each epoch.",
            "batches = iter([data, data])\n"
            "training.fit(train, new(), batches, "
            'epochs=1, steps=2, out="steps", config={})',
        ),
        Entry(
            "an iterator that ends within an epoch",
            "batches = iter([data, data])\n"
            "training.fit(train, new(), batches, "
            'epochs=1, steps=3, out="ends", config={})',
            "A generator or a loader that makes one pass over the data.",
            "import itertools\n\n"
            "batches = itertools.cycle([data, data])\n"
            "training.fit(train, new(), batches, "
            'epochs=1, steps=3, out="cycles", config={})',
        ),
        Entry(
            "saving no array",
            'training.save("a.npz", (), {"cell": "dropout"})',
            "The params of a cell without weights, or the wrong variable: nothing "
            "would be restored.",
            'training.save("a.npz", params, {"cell": "lstm"})',
        ),
        Entry(
            "saving text as an array",
            'training.save("a.npz", {"name": "lstm", "params": params}, {})',
            "The state holds arrays; everything else is metadata.",
            'training.save("a.npz", params, {"name": "lstm"})',
        ),
        Entry(
            "saving two entries of one name",
            'training.save("a.npz", params, {1: 0.5, "1": 0.7})',
            "JSON turns the keys of a dict into strings, and one of these would be "
            "lost.",
            'training.save("a.npz", params, {"1": 0.5, "2": 0.7})',
        ),
        Entry(
            "saving to a folder",
            'training.save(".", params, {})',
            "The path is that of a file. Anything but a regular file is left alone.",
            'training.save("./checkpoint.npz", params, {})',
        ),
        Entry(
            "restoring a file that is not there",
            'training.restore("gone.npz", params)',
            "There is no such file, or not yet.",
            'training.save("there.npz", params, {})\n'
            'training.restore("there.npz", params)',
        ),
        Entry(
            "restoring a file of another kind",
            'with open("notes.txt", "w") as file:\n'
            '    file.write("loss 0.5")\n'
            'training.restore("notes.txt", params)',
            "What is in brackets says what was found wrong.",
            'training.save("kind.npz", params, {})\n'
            'training.restore("kind.npz", params)',
        ),
        Entry(
            "restoring into params of other sizes",
            'training.save("sizes.npz", params, {})\n'
            'training.restore("sizes.npz", rnnjax.lstm(5, 6).init(key))',
            "The template is of a cell with other sizes than the saved one.",
            'training.save("sizes.npz", params, {})\n'
            'training.restore("sizes.npz", rnnjax.lstm(5, 4).init(key))',
        ),
    ],
    "Learning on the way": [
        Entry(
            "a rule that is not called",
            "rnnjax.online.learner(cell, rnnjax.online.rtrl)",
            "`rtrl` makes the rule.",
            "rnnjax.online.learner(cell, rnnjax.online.rtrl())",
        ),
        Entry(
            "a rule that draws, without a key",
            "learner = rnnjax.online.learner(cell, rnnjax.online.uoro())\n"
            "learner.init(params, xs[0])",
            "`uoro` and `kf_rtrl` draw signs at every step.",
            "learner = rnnjax.online.learner(cell, rnnjax.online.uoro())\n"
            "learner.init(params, xs[0], key=key)",
        ),
        Entry(
            "a carry in the place of a learner's state",
            "learner = rnnjax.online.learner(cell, rnnjax.online.rtrl())\n"
            "learner.step(params, carry, xs[0])",
            "A learner remembers more than the carry.",
            "learner = rnnjax.online.learner(cell, rnnjax.online.rtrl())\n"
            "learner.step(params, learner.init(params, xs[0]), xs[0])",
        ),
        Entry(
            "units that see others",
            "learner = rnnjax.online.learner(cell, rnnjax.online.units())\n"
            "learner.init(params, xs[0])",
            "With recurrent weights every unit reads every other.",
            "learner = rnnjax.online.learner(cell, rnnjax.online.snap(1))\n"
            "learner.init(params, xs[0])",
        ),
        Entry(
            "a param that moves several units",
            "learner = rnnjax.online.learner(deep, rnnjax.online.snap(1))\n"
            "learner.init(deep_params, xs[0])",
            "What a lower layer puts out enters all units of the next one at once.",
            "learner = rnnjax.online.learner(deep, rnnjax.online.rtrl())\n"
            "learner.init(deep_params, xs[0])",
        ),
        Entry(
            "a matrix that multiplies several vectors",
            "before = rnnjax.gru(5, 4, reset_after=False)\n"
            "learner = rnnjax.online.learner(before, rnnjax.online.kf_rtrl())\n"
            "learner.init(before.init(key), xs[0], key=key)",
            "The influence of such a matrix is no single product of two factors.",
            "after = rnnjax.gru(5, 4)\n"
            "learner = rnnjax.online.learner(after, rnnjax.online.kf_rtrl())\n"
            "learner.init(after.init(key), xs[0], key=key)",
        ),
        Entry(
            "truncation within a block",
            "rnnjax.online.tbptt(20, 10)",
            "A block has `k1` steps, and its last loss goes through `k2`.",
            "rnnjax.online.tbptt(10, 20)",
        ),
    ],
    "Dynamics": [
        Entry(
            "more Lyapunov exponents than states",
            "rnnjax.dynamics.lyapunov(cell, params, carry, xs, count=9)",
            "There are as many exponents as numbers in the carry.",
            "rnnjax.dynamics.lyapunov(cell, params, carry, xs, count=8)",
        ),
        Entry(
            "Lyapunov exponents of no step",
            "rnnjax.dynamics.lyapunov(cell, params, carry, xs, skip=7)",
            "The steps that are skipped are among those of the sequence.",
            "rnnjax.dynamics.lyapunov(cell, params, carry, xs, skip=2)",
        ),
        Entry(
            "fixed points from a carry without an axis of starts",
            "rnnjax.dynamics.fixed_points("
            "rnnjax.pointwise(jnp.tanh), (), jnp.zeros(()), jnp.ones(5))",
            "The search takes many starts at once.",
            "starts = jax.tree.map(lambda a: a[None], carry)\n"
            "rnnjax.dynamics.fixed_points(cell, params, starts, jnp.ones(5))",
        ),
    ],
}


def entries() -> Iterator[Entry]:
    """All of them."""
    for section in SECTIONS.values():
        yield from section


def raised(entry: Entry, names: dict) -> Exception:
    """What the wrong lines of an entry raise."""
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # a run prints its epochs
            exec(entry.wrong, dict(names))
    except Exception as error:
        return error
    raise ValueError(f"nothing is raised by {entry.wrong}")


def page() -> str:
    """The whole page; what its lines write goes to a folder that is deleted."""
    names: dict = {}
    exec(NAMES, names)
    parts = [HEAD]
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for title, section in SECTIONS.items():
            parts.append(f"\n## {title}\n")
            parts += [_section(entry, raised(entry, names)) for entry in section]
    return "".join(parts)


def _section(entry: Entry, error: Exception) -> str:
    said = f"{type(error).__name__}: {error.args[0]}"
    lines = textwrap.wrap(said, 86, break_long_words=False, break_on_hyphens=False)
    lines += getattr(error, "__notes__", [])
    prompts = {True: "...", False: ">>>"}
    typed = [
        f"{prompts[line.startswith(' ')]} {line}" for line in entry.wrong.split("\n")
    ]
    shown = "\n".join([*typed, *lines])
    title = entry.misuse[0].upper() + entry.misuse[1:]
    return (
        f"\n### {title}\n\n```pycon\n{shown}\n```\n\n"
        f"{textwrap.fill(entry.cause, 88)} Write:\n\n```python\n{entry.right}\n```\n"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
