"""Whatever a conversion is given, it answers by a right cell or by one sentence.

Every function of `rnnjax.interop` meets every damage that its arguments can take. What
it accepts must be a cell with the very params that the cell has; what it refuses must
be refused by its own words, not by those of NumPy, JAX or Python underneath.
"""

import contextlib
import copy
import json
import pathlib
import struct
import traceback
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from rnnjax import interop

pytestmark = pytest.mark.float32

PACKAGE = str(pathlib.Path(rnnjax.__file__).parent)
WRITE = ("Write ", "Pass ", "Leave ", "Convert ", "Export ", "Turn ", "Train ")


def one_sentence(error):
    """Whether an error is in the house's form, and raised by the house."""
    text = str(error)
    assert type(error) in (ValueError, TypeError), repr(error)
    frames = traceback.extract_tb(error.__traceback__)
    assert frames[-1].filename.startswith(PACKAGE), (frames[-1], text)
    assert "\n" not in text, text
    assert len(text) < 700, text
    assert "expected" in text, text
    assert any(word in text for word in WRITE), text
    notes = getattr(error, "__notes__", ())
    assert all("JAX has removed its internal frames" in note for note in notes), notes


def right_or_refused(call):
    """The report of what was accepted, or None once it was refused properly."""
    try:
        found = call()
    except Exception as error:
        one_sentence(error)
        return None
    expected = jax.eval_shape(found.cell.init, jax.random.key(0))
    assert jax.tree.structure(found.params) == jax.tree.structure(expected)
    for leaf, wanted in zip(
        jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True
    ):
        assert isinstance(leaf, jax.Array)
        assert leaf.shape == wanted.shape
    assert len({leaf.dtype for leaf in jax.tree.leaves(found.params)}) == 1
    return found.report


def refused(call):
    assert right_or_refused(call) is None, "accepted"


def drawn(cell):
    shapes = jax.eval_shape(cell.init, jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.normal(size=s.shape), jnp.float32), shapes
    )


def both(cell):
    return rnnjax.bidirectional(cell)


LSTM, GRU = rnnjax.lstm(2, 3), rnnjax.gru(2, 3)
BEFORE = rnnjax.gru(2, 3, reset_after=False)
TANH, RELU = rnnjax.elman(2, 3), rnnjax.elman(2, 3, activation=jax.nn.relu)
TWO = rnnjax.stack(rnnjax.lstm(2, 3), rnnjax.lstm(3, 3))
PEEPHOLES = rnnjax.full_lstm(2, 3, peepholes=True)
PROJECTED = rnnjax.full_lstm(2, 3, projection_size=2)
CELLS = {
    "torch": (LSTM, both(GRU), TANH, TWO, PROJECTED),
    "keras": (LSTM, GRU, BEFORE, both(TANH), TWO),
    "linen": (LSTM, GRU, both(TANH), rnnjax.mgu(2, 3, reset_after=True), TWO),
    "nnx": (LSTM, GRU, both(TANH), TWO),
    "haiku": (LSTM, BEFORE, RELU, TWO),
    "equinox": (LSTM, GRU, TWO),
    "tensorflow1": (LSTM, GRU, BEFORE, both(TANH), TWO, PEEPHOLES, PROJECTED),
    "cudnn": (LSTM, both(GRU), TANH, TWO),
    "onnx_weights": (LSTM, GRU, both(BEFORE), TANH, PEEPHOLES),
}


def valid(library, cell):
    """``(read, arrays, options)``: a conversion with arrays that it takes."""
    exported = getattr(interop, f"to_{library}")(cell, drawn(cell))
    read, options = getattr(interop, f"from_{library}"), {}
    if library == "cudnn":
        options = {
            "kind": next(k for k in ("gru", "elman", "lstm") if k in repr(cell)),
            "input_size": 2,
            "hidden_size": 3,
            "layers": 2 if cell is TWO else 1,
            "bidirectional": "bidirectional" in repr(cell),
        }
    if library == "onnx_weights":
        options = {"attributes": exported.attributes}

        def of_this_op(arrays, **rest):
            return interop.from_onnx_weights(exported.op, arrays, **rest)

        return of_this_op, exported.arrays, options
    return read, exported.arrays, options


TABLE = [
    pytest.param(library, cell, id=f"{library} {cell}")
    for library, cells in CELLS.items()
    for cell in cells
]


def places(tree, path=()):
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from places(value, (*path, name))
        else:
            yield (*path, name), value


def changed(tree, path, value):
    tree = copy.deepcopy(tree)
    place = tree
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    return tree


def without(tree, path):
    tree = copy.deepcopy(tree)
    place = tree
    for name in path[:-1]:
        place = place[name]
    del place[path[-1]]
    return tree


class Unreadable:
    """As torch's tensors that require gradients, or lie on a GPU."""

    def __array__(self, *args, **kwargs):
        raise RuntimeError("Can't call numpy().\nUse tensor.detach().numpy() instead.")


def more(a, axis):
    return np.concatenate([a, np.take(a, [0], axis)], axis)


def cyclic(a):
    tree: dict[str, Any] = {}
    tree["again"] = tree
    return tree


def nested(a):
    tree: Any = a
    for _ in range(3000):
        tree = {"deeper": tree}
    return tree


# What no array may become; every one of these is refused, wherever it happens.
ALWAYS = {
    "a number": lambda a: np.float32(1.0),
    "an axis more": lambda a: a[None],
    "two axes more": lambda a: a[None, None],
    "nothing in it": lambda a: a[..., :0],
    "no rows": lambda a: a[:0],
    "a column more": lambda a: more(a, -1) if a.ndim == 1 else more(more(a, 0), 1),
    "objects": lambda a: a.astype(object),
    "texts": lambda a: a.astype(str),
    "complex numbers": lambda a: a.astype(np.complex64),
    "bools": lambda a: a > 0,
    "bytes": lambda a: a.astype(np.int8),
    "dates": lambda a: np.zeros(a.shape, "datetime64[s]"),
    "records": lambda a: np.zeros(a.shape, [("a", np.float32)]),
    "another precision": lambda a: a.astype(np.float16),
    "masked numbers": lambda a: np.ma.masked_less(a, 0),
    "ragged lists": lambda a: [[1.0, 2.0], [3.0]],
    "a text": lambda a: "weights.npy",
    "an object": lambda a: object(),
    "a function": lambda a: np.ones,
    "a tensor that NumPy may not read": lambda a: Unreadable(),
    "a dictionary": lambda a: {"data": a},
    "an empty dictionary in a dictionary": lambda a: {"a": {}, "b": a},
    "a dictionary within itself": cyclic,
    "dictionaries without end": nested,
}


@pytest.mark.parametrize(("library", "cell"), TABLE)
def test_every_damage_of_every_array_is_refused(library, cell):
    read, arrays, options = valid(library, cell)
    assert right_or_refused(lambda: read(arrays, **options)) is not None
    for path, array in places(arrays):
        for what, damage in ALWAYS.items():
            if what == "another precision" and len(list(places(arrays))) == 1:
                continue  # then it is that of all
            damaged = changed(arrays, path, damage(array))
            with context(what, path):
                refused(lambda arrays=damaged: read(arrays, **options))


@pytest.mark.parametrize(("library", "cell"), TABLE)
def test_what_may_be_right_is_right_or_refused(library, cell):
    """A bias left out, or another number of inputs, makes another cell at times."""
    read, arrays, options = valid(library, cell)
    for path, array in places(arrays):
        for tree in (
            without(arrays, path),
            changed(arrays, path, None),
            *(changed(arrays, path, more(array, k)) for k in range(array.ndim)),
            *(changed(arrays, path, np.delete(array, 0, k)) for k in range(array.ndim)),
            changed(arrays, path, array.T),
            changed(arrays, path, np.full_like(array, np.nan)),
            changed(arrays, path, array.tolist()),
        ):
            with context("changed", path):
                right_or_refused(lambda tree=tree: read(tree, **options))
    for dtype in (np.longdouble, jnp.float8_e4m3fn, np.int32, np.float16, ">f4"):
        tree = jax.tree.map(lambda a, dtype=dtype: np.asarray(a).astype(dtype), arrays)
        report = right_or_refused(lambda tree=tree: read(tree, **options))
        assert (report is None) == (dtype not in (np.float16, ">f4"))


WHOLE = {
    "nothing": None,
    "a list": [1, 2],
    "a text": "model.pt",
    "a number": 5,
    "a module": object(),
    "a cell": LSTM,
    "params": drawn(LSTM),
    "an array": np.ones((3, 3), np.float32),
    "an empty dictionary": {},
    "nothing but None": {"weight": None},
    "unknown names": {"weight": np.ones(3, np.float32)},
    "a name that is long": {"w" * 5000: np.ones(3, np.float32)},
    "a dictionary within itself": cyclic(None),
    "an empty name": {"": np.ones((3, 3), np.float32)},
}
NAMES = {
    "bytes": lambda name: str(name).encode(),
    "a tuple": lambda name: (name,),
    "nothing": lambda name: None,
    "a bool": lambda name: True,
    "a float": lambda name: 1.5,
}


@pytest.mark.parametrize("library", CELLS)
def test_every_damage_of_the_whole_is_refused(library):
    read, arrays, options = valid(library, CELLS[library][0])
    for what, whole in WHOLE.items():
        with context(what, ()):
            refused(lambda whole=whole: read(whole, **options))
    for what, rename in NAMES.items():
        renamed = {rename(name): value for name, value in arrays.items()}
        with context(what, ()):
            refused(lambda tree=renamed: read(tree, **options))
    for name in ("surplus", "layer_9/surplus", "weight_ih_l99999999999999999999"):
        with context(name, ()):
            tree = arrays | {name: np.ones((3, 3), np.float32)}
            refused(lambda tree=tree: read(tree, **options))
    flat = {"/".join(map(str, path)): array for path, array in places(arrays)}
    first = next(iter(flat))
    if "/" in first:
        head, _, tail = first.partition("/")
        twice = flat | {head: {tail: flat[first]}}
        refused(lambda: read(twice, **options))
    if library not in ("cudnn", "onnx_weights"):
        for prefix in (None, 3, b"rnn", ["rnn"]):
            refused(lambda prefix=prefix: read(arrays, prefix=prefix, **options))
        refused(lambda: read(arrays, prefix="nowhere/", **options))


FUNCTIONS = ("relu", None, 3, np.ones(3), ["tanh"], LSTM)
OPTIONS = {
    "torch": {"activation": (*FUNCTIONS, jax.nn.relu, jax.nn.sigmoid)},
    "keras": {"activation": FUNCTIONS, "reset_after": ("no", 3, [True], np.ones(2))},
    "linen": {"activation": FUNCTIONS},
    "nnx": {"activation": FUNCTIONS},
    "tensorflow1": {
        "activation": FUNCTIONS,
        "forget_bias": ("1", None, np.nan, np.inf, True, [1.0], np.ones(4)),
        "cell_clip": ("1", np.nan, 0.0, -1.0, [1.0], np.ones(4), True),
        "projection_clip": ("1", np.nan, 0.0, -1.0, [1.0], True),
    },
    "cudnn": {
        "activation": (*FUNCTIONS, jax.nn.relu),
        "kind": ("mgu", None, ["lstm"], {}, np.ones(2), 4),
        "input_size": (0, -1, 2.0, np.nan, None, "2", True, 10**30),
        "hidden_size": (0, -1, 2.0, np.nan, None, "2", True, 10**30),
        "layers": (0, -1, 2.0, np.nan, None, "2", True, 10**30),
        "bidirectional": ("yes", None, 1, np.ones(2)),
    },
    "onnx_weights": {
        "attributes": (
            [], "hidden_size", 5, {b"hidden_size": 3}, {"hidden_size": 0},
            {"hidden_size": 4}, {"hidden_size": 3.0}, {"hidden_size": None},
            {"hidden_size": np.nan}, {"hidden_size": [3]}, {"direction": "backwards"},
            {"direction": b"\xff\xfe"}, {"direction": 1}, {"direction": None},
            {"direction": "bidirectional"}, {"activations": "Sigmoid"},
            {"activations": ["Sigmoid"]}, {"activations": [b"\xff"] * 3},
            {"activations": [1, 2, 3]}, {"activations": ["Sigmoid", "Gelu", "Gelu"]},
            {"activations": ["Tanh", "Tanh", "Tanh"]}, {"activations": np.ones(3)},
            {"activations": ["HardSigmoid", "Tanh", "Tanh"]},
            {"activations": ["Sigmoid", "Tanh", "Relu"]}, {"clip": 3.0}, {"clip": 0.0},
            {"clip": -1.0}, {"clip": np.nan}, {"clip": "3"}, {"clip": [3.0]},
            {"input_forget": 2}, {"input_forget": None}, {"input_forget": "yes"},
            {"layout": 2}, {"linear_before_reset": 1}, {"output_sequence": 1},
            {"W": np.ones(3)}, {3: 4}, {None: 4},
            {"activations": ["Sigmoid", "Affine", "Affine"]},
            {"activations": ["Sigmoid", "Elu", "Elu"], "activation_alpha": 0.3},
            {"activations": ["Sigmoid", "Elu", "Elu"], "activation_alpha": [np.nan]},
            {"activations": ["Sigmoid", "Elu", "Elu"], "activation_alpha": [1.0, 2.0]},
            {"activations": ["Sigmoid", "Elu", "Elu"], "activation_alpha": ["1"]},
        ),
    },
}  # fmt: skip


@pytest.mark.parametrize("library", OPTIONS)
def test_every_wrong_option_is_refused(library):
    cell = PROJECTED if library == "tensorflow1" else LSTM
    read, arrays, options = valid(library, cell)
    for name, values in OPTIONS[library].items():
        for value in values:
            with context(f"{name}={value!r}", ()):
                given = {**options, name: value}
                refused(lambda given=given: read(arrays, **given))


@pytest.mark.parametrize("op", ["lstm", "Lstm", "", None, 3, b"LSTM", ["LSTM"], GRU])
def test_every_wrong_op_is_refused(op):
    _, arrays, options = valid("onnx_weights", LSTM)
    refused(lambda: interop.from_onnx_weights(op, arrays, **options))


@pytest.mark.parametrize(
    "name", ["initial_h", "initial_c", "sequence_lens", "X", "P", "w", "Y_h"]
)
def test_inputs_that_onnx_would_read_are_refused(name):
    """Ignored they would make another function, and the report would say exact."""
    read, arrays, options = valid("onnx_weights", GRU)
    refused(lambda: read(arrays | {name: np.ones((1, 9), np.float32)}, **options))


def donated():
    """Params that are no longer there."""
    params = drawn(LSTM)
    params.w_ih.delete()
    return params


PAIRS = {
    "swapped": lambda: (drawn(LSTM), LSTM),
    "two cells": lambda: (LSTM, LSTM),
    "nothing": lambda: (None, None),
    "a constructor": lambda: (rnnjax.lstm, drawn(LSTM)),
    "a text": lambda: ("lstm", drawn(LSTM)),
    "no params": lambda: (LSTM, None),
    "a dictionary": lambda: (LSTM, drawn(LSTM)._asdict()),
    "a list": lambda: (LSTM, list(drawn(LSTM))),
    "a text for params": lambda: (LSTM, "params"),
    "an object for params": lambda: (LSTM, object()),
    "an array for params": lambda: (LSTM, jnp.ones(3)),
    "of another cell": lambda: (LSTM, drawn(GRU)),
    "of another size": lambda: (LSTM, drawn(rnnjax.lstm(2, 4))),
    "of more inputs": lambda: (LSTM, drawn(rnnjax.lstm(3, 3))),
    "one of two": lambda: (TWO, drawn(LSTM)),
    "two for one": lambda: (LSTM, drawn(TWO)),
    "broadcast": lambda: (LSTM, drawn(LSTM)._replace(b=jnp.ones(()))),
    "one missing": lambda: (LSTM, drawn(LSTM)._replace(b=None)),
    "a text inside": lambda: (LSTM, drawn(LSTM)._replace(b="b")),
    "an object inside": lambda: (LSTM, drawn(LSTM)._replace(b=object())),
    "a list inside": lambda: (LSTM, drawn(LSTM)._replace(b=[1.0] * 12)),
    "integers": lambda: (LSTM, jax.tree.map(lambda a: a.astype(int), drawn(LSTM))),
    "keys": lambda: (
        LSTM,
        drawn(LSTM)._replace(b=jax.random.split(jax.random.key(0), 12)),
    ),
    "mixed": lambda: (LSTM, drawn(LSTM)._replace(b=jnp.ones(12, jnp.bfloat16))),
    "donated": lambda: (LSTM, donated()),
}


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("library", CELLS)
def test_every_wrong_pair_of_cell_and_params_is_refused(library, pair):
    write = getattr(interop, f"to_{library}")
    with pytest.raises((ValueError, TypeError)) as caught:
        write(*PAIRS[pair]())
    one_sentence(caught.value)


@pytest.mark.parametrize("library", CELLS)
def test_traced_params_are_refused(library):
    cell = CELLS[library][0]

    def convert(params):
        return getattr(interop, f"to_{library}")(cell, params)

    with pytest.raises(TypeError, match="is traced; expected numbers") as caught:
        jax.jit(convert)(drawn(cell))
    one_sentence(caught.value)


@pytest.mark.parametrize(
    ("library", "options"),
    [
        ("nnx", {"fused": "no"}),
        ("nnx", {"fused": None}),
        ("tensorflow1", {"forget_bias": "1"}),
        ("tensorflow1", {"forget_bias": np.nan}),
        ("tensorflow1", {"forget_bias": None}),
    ],
)
def test_wrong_options_of_exports_are_refused(library, options):
    with pytest.raises((ValueError, TypeError)) as caught:
        getattr(interop, f"to_{library}")(LSTM, drawn(LSTM), **options)
    one_sentence(caught.value)


def file_of(header, data=b"", length=None):
    """A safetensors file of any header, true or not."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def entry(shape, begin, end, dtype="F32"):
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


PAIR = {
    "weight_ih_l0": entry([3, 2], 0, 24),
    "weight_hh_l0": entry([3, 3], 24, 60),
}
FILES = {
    "empty": b"",
    "a few bytes": b"\x01\x02",
    "a picture": b"\x89PNG\r\n\x1a\n" + bytes(200),
    "a huge header": file_of(PAIR, bytes(60), length=2**63),
    "a header beyond the end": file_of(PAIR, bytes(60), length=10**6),
    "a header of nothing": file_of(b""),
    "no JSON": file_of(b"{'a': 1}", bytes(60)),
    "half a JSON": file_of(json.dumps(PAIR).encode()[:-5], bytes(60)),
    "no UTF-8": file_of(b'{"\xff\xfe": 1}', bytes(60)),
    "a list": file_of([1, 2], bytes(60)),
    "a number": file_of(b"3", bytes(60)),
    "deep JSON": file_of(b"[" * 100_000, bytes(60)),
    "no tensors": file_of({}),
    "metadata alone": file_of({"__metadata__": {"format": "pt"}}),
    "metadata of numbers": file_of(PAIR | {"__metadata__": {"a": 1}}, bytes(60)),
    "negative offsets": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], -36, 0)}, bytes(60)
    ),
    "offsets that turn round": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], 60, 24)}, bytes(60)
    ),
    "offsets beyond the end": file_of(PAIR, bytes(50)),
    "huge offsets": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], 24, 2**64 - 1)}, bytes(60)
    ),
    "overlapping tensors": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], 12, 48)}, bytes(60)
    ),
    "a hole": file_of(PAIR | {"weight_hh_l0": entry([3, 3], 28, 64)}, bytes(64)),
    "bytes left over": file_of(PAIR, bytes(80)),
    "another size than its shape": file_of(
        PAIR | {"weight_hh_l0": entry([3, 4], 24, 60)}, bytes(60)
    ),
    "a shape that overflows": file_of(
        PAIR | {"weight_hh_l0": entry([2**40, 2**40], 24, 60)}, bytes(60)
    ),
    "a negative shape": file_of(
        PAIR | {"weight_hh_l0": entry([-3, -3], 24, 60)}, bytes(60)
    ),
    "an unknown dtype": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], 24, 60, "Q99")}, bytes(60)
    ),
    "whole numbers": file_of(
        PAIR | {"weight_hh_l0": entry([3, 3], 24, 60, "I32")}, bytes(60)
    ),
    "eight bits": file_of(
        {"weight_ih_l0": entry([3, 2], 0, 6, "F8_E4M3"),
         "weight_hh_l0": entry([3, 3], 6, 15, "F8_E4M3")},
        bytes(15),
    ),
    "complex numbers": file_of(
        {"weight_ih_l0": entry([3, 2], 0, 48, "C64"),
         "weight_hh_l0": entry([3, 3], 48, 120, "C64")},
        bytes(120),
    ),
    "names twice": file_of(
        b'{"a": %b, "a": %b}' % ((json.dumps(entry([3, 2], 0, 24)).encode(),) * 2),
        bytes(24),
    ),
    "no torch module": file_of({"weight": entry([3, 2], 0, 24)}, bytes(24)),
    "another activation": file_of(
        PAIR | {"__metadata__": {"nonlinearity": "gelu"}}, bytes(60)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_every_damaged_file_is_refused(name, tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "cell.safetensors"
    path.write_bytes(FILES[name])
    refused(lambda: interop.load_safetensors(path))


def test_a_file_cut_anywhere_is_refused(tmp_path):
    pytest.importorskip("safetensors")
    path = tmp_path / "cell.safetensors"
    interop.save_safetensors(path, LSTM, drawn(LSTM))
    whole = path.read_bytes()
    assert right_or_refused(lambda: interop.load_safetensors(path)) is not None
    for end in range(0, len(whole), 7):
        path.write_bytes(whole[:end])
        refused(lambda: interop.load_safetensors(path))


def test_a_file_with_any_byte_turned_is_right_or_refused(tmp_path):
    """Within the numbers nobody can tell; within the header everything is."""
    pytest.importorskip("safetensors")
    path = tmp_path / "cell.safetensors"
    interop.save_safetensors(path, LSTM, drawn(LSTM))
    whole = path.read_bytes()
    header = 8 + struct.unpack("<Q", whole[:8])[0]
    rng = np.random.default_rng(0)
    for place in range(header):
        turned = bytearray(whole)
        turned[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(turned))
        right_or_refused(lambda: interop.load_safetensors(path))


@pytest.mark.parametrize("path", [None, 3, b"cell", ["cell"], "cell\0", np.ones(2)])
def test_paths_that_are_none_are_refused(path):
    pytest.importorskip("safetensors")
    refused(lambda: interop.load_safetensors(path))
    with pytest.raises((ValueError, TypeError)) as caught:
        interop.save_safetensors(path, LSTM, drawn(LSTM))
    one_sentence(caught.value)


def test_files_that_are_none_are_refused(tmp_path):
    pytest.importorskip("safetensors")
    refused(lambda: interop.load_safetensors(tmp_path))
    path = tmp_path / "cell.safetensors"
    interop.save_safetensors(path, LSTM, drawn(LSTM))
    prefix: Any
    for prefix in (None, 3, b"rnn"):
        refused(lambda prefix=prefix: interop.load_safetensors(path, prefix=prefix))
    with pytest.raises(FileNotFoundError, match="nowhere"):
        interop.load_safetensors(tmp_path / "nowhere")
    with pytest.raises((ValueError, TypeError)) as caught:
        interop.save_safetensors(tmp_path, LSTM, drawn(LSTM))
    one_sentence(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        interop.save_safetensors(tmp_path / "nowhere/a", LSTM, drawn(LSTM))


@contextlib.contextmanager
def context(what, path):
    """Say which damage it was; one test for each would be thousands."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"This was {what}, at {path}.")
        raise
