"""Checkpoints: what is written comes back, and nothing else is read or touched."""

import io
import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap
import tracemalloc
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from regression import same_bits, start_of_regression

import rnnjax
from rnnjax import training

DTYPES = [
    *("bool", "int8", "uint16", "int32", "int64", "float16", "bfloat16", "float32"),
    *("float64", "complex64", "float8_e4m3fn", "float8_e5m2", "int4"),
]


def every_kind_of_leaf():
    values = jnp.arange(6.0).reshape(2, 3) - 2
    return {
        "arrays": {dtype: values.astype(dtype) for dtype in DTYPES},
        "odd/name [0]": (jnp.zeros(()), jnp.zeros((0, 3)), None, [np.float32(3.5), 2]),
        "nan": jnp.array([np.nan, np.inf, -0.0]),
        "params": rnnjax.gru(2, 3, reset_after=False).init(jax.random.key(0)),
        "key": jax.random.key(1),
        "keys": jax.random.split(jax.random.key(2, impl="rbg"), (2, 3)),
    }


def test_checkpoint_round_trip(tmp_path):
    tree, path = every_kind_of_leaf(), tmp_path / "checkpoint.npz"
    training.save(path, tree, {"name": "é", "list": [1, None]})
    expected = jax.tree.map(jnp.asarray, tree)
    shapes = jax.eval_shape(lambda: expected)
    for template in (tree, shapes):
        restored, metadata = training.restore(path, template)
        same_bits(restored, expected)
        assert metadata == {"name": "é", "list": [1, None]}
    assert os.listdir(tmp_path) == ["checkpoint.npz"]
    with np.load(path) as arrays:  # readable without this library, nothing pickled
        np.testing.assert_array_equal(arrays["['params'].w_hh"], tree["params"].w_hh)


def small_state():
    return start_of_regression(optax.adam(0.1))


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "checkpoint.npz"
    training.save(path, small_state(), {"config": {}, "history": []})
    return path


def refused(path, template, *words):
    """Restoring raises one sentence with these words, and leaves the file alone."""
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"checkpoint\.npz") as caught:
        training.restore(path, template)
    for word in (*words, "left as it is"):
        assert word in str(caught.value).replace("was left", "left")
    assert path.read_bytes() == before


def test_flipped_bytes_are_refused_or_harmless(checkpoint):
    content, state = checkpoint.read_bytes(), small_state()
    outcomes = set()
    for at in range(0, len(content), 13):
        damaged = bytearray(content)
        damaged[at] ^= 0xFF
        checkpoint.write_bytes(damaged)
        try:
            restored, _ = training.restore(checkpoint, state)
        except ValueError as error:
            outcomes.add("checkpoint.npz" in str(error))
        else:
            same_bits(restored, state)
            outcomes.add("harmless")  # a date, say
    assert outcomes == {True, "harmless"}


def test_truncated_is_refused(checkpoint):
    content = checkpoint.read_bytes()
    for length in [0, 1, 21, 22, *range(100, len(content), 97), len(content) - 1]:
        checkpoint.write_bytes(content[:length])
        refused(checkpoint, small_state(), "damaged or something else")


def foreign_files():
    def npz(**arrays):
        file = io.BytesIO()
        np.savez(file, **arrays)
        return file.getvalue()

    def with_header(header):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("rnnjax.json", header)
        return file.getvalue()

    def twice():
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("a.npy", "")
            with pytest.warns(UserWarning, match="Duplicate"):
                archive.writestr("a.npy", "")
        return file.getvalue()

    leaf = {"format": "rnnjax checkpoint 1", "metadata": 0, "leaves": {"w": {}}}
    bare = {"format": "rnnjax checkpoint 1", "leaves": {}}
    named_twice = '{"format": "rnnjax checkpoint 1", "metadata": 0, "metadata": 1}'
    return {
        "text": b"epoch,loss\n1,0.5\n",
        "npz": npz(w=np.ones(3)),
        "pickled": npz(w=np.array([{}], dtype=object)),
        "no json": with_header("{"),
        "other format": with_header('{"format": "somebody else 7"}'),
        "no format": with_header("[]"),
        "no type": with_header(json.dumps(leaf)),
        "no metadata": with_header(json.dumps(bare)),
        "a name twice": with_header(named_twice),
        "an entry twice": twice(),
    }


@pytest.mark.parametrize("kind", foreign_files())
def test_foreign_is_refused(kind, tmp_path):
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(foreign_files()[kind])
    refused(path, small_state(), "damaged or something else")


def rewritten(path, change):
    """The checkpoint with each entry as ``change(name, content)`` says, or without."""
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    path.unlink()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            changed = change(name, content)
            if changed is not None:
                archive.writestr(name, changed)


def npy(array):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, allow_pickle=True)
    return file.getvalue()


W = "params['w'].npy"
OTHERS = {
    "gone": None,
    "shorter": npy(np.zeros(2)),
    "longer": npy(np.zeros(3_000_000)),
    "another dtype": npy(np.zeros(3, np.float32)),
    "integers": npy(np.zeros(3, np.int64)),
    "the other byte order": npy(np.zeros(3).astype(np.dtype(float).newbyteorder())),
    "objects": npy(np.array([{}, {}, {}], object)),
    "cut off": npy(np.zeros(3))[:-1],
    "more at the end": npy(np.zeros(3)) + b"\0",
    "a header of 64 kB": npy(np.zeros(3))[:8] + b"\xff" * 70_000,
    "a later version": npy(np.zeros(3)).replace(b"\x01\x00", b"\x03\x00", 1),
    "a shape that fills the memory": npy(np.zeros(3)).replace(
        b"(3,), }" + 12 * b" ", b"(3000000000000,), }", 1
    ),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_array_than_its_type_says_is_refused(kind, checkpoint):
    assert OTHERS[kind] != npy(np.zeros(3))
    rewritten(checkpoint, lambda name, old: OTHERS[kind] if name == W else old)
    refused(checkpoint, small_state(), "damaged or something else")


def test_arrays_by_columns_are_read(checkpoint):
    """`save` does not write them, NumPy may."""
    tree = {"w": jnp.arange(6.0).reshape(2, 3)}
    training.save(checkpoint, tree, {})
    by_columns = npy(np.asfortranarray(tree["w"]))
    assert b"True" in by_columns
    rewritten(checkpoint, lambda name, old: by_columns if name[0] == "[" else old)
    same_bits(training.restore(checkpoint, tree)[0], tree)


def test_nothing_that_is_compressed_is_inflated(checkpoint):
    """A few kilobytes can hold gigabytes of zeros; no part of them is read."""
    with zipfile.ZipFile(checkpoint) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    for bomb in (W, "rnnjax.json"):
        with zipfile.ZipFile(checkpoint, "w") as archive:
            for name, content in entries.items():
                big = content + b" " * 50_000_000
                kind = zipfile.ZIP_DEFLATED if name == bomb else zipfile.ZIP_STORED
                archive.writestr(name, big if name == bomb else content, kind)
        assert checkpoint.stat().st_size < 200_000
        tracemalloc.start()
        refused(checkpoint, small_state(), "is compressed")
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2_000_000


def test_entries_that_are_not_needed_are_not_read(checkpoint, monkeypatch):
    with zipfile.ZipFile(checkpoint, "a") as archive:
        archive.writestr("notes.txt", "mine")
    opened, open_entry = [], zipfile.ZipFile.open

    def watched(archive, entry, *rest):
        opened.append(getattr(entry, "filename", entry))
        return open_entry(archive, entry, *rest)

    monkeypatch.setattr(zipfile.ZipFile, "open", watched)
    same_bits(training.restore(checkpoint, small_state())[0], small_state())
    assert "rnnjax.json" in opened
    assert len(opened) == len(set(opened)) == len(jax.tree.leaves(small_state())) + 1
    assert "notes.txt" not in opened
    opened.clear()
    refused(checkpoint, {"w": jnp.ones(3)}, "another state")
    assert opened == ["rnnjax.json"]


TEMPLATES = {
    "another optimizer": (lambda s: s._replace(opt_state=()), "opt_state", "too many"),
    "another name": (lambda s: s._replace(params={"w": s.params["w"]}), "params['b']"),
    "one more": (
        lambda s: s._replace(params={**s.params, "c": s.params["b"]}),
        "lacks [\"params['c']\"]",
    ),
    "shape": (
        lambda s: s._replace(params={**s.params, "w": jnp.zeros(4)}),
        "params['w'] as float64[3]; expected float64[4]",
    ),
    "dtype": (
        lambda s: s._replace(params={**s.params, "w": jnp.zeros(3, jnp.bfloat16)}),
        "expected bfloat16[3]",
    ),
    "kind of key": (
        lambda s: s._replace(key=jax.random.key(0, impl="rbg")),
        "key as key<fry>[]; expected key<rbg>[]",
    ),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_does_not_fit_is_refused(name, checkpoint):
    change, *words = TEMPLATES[name]
    refused(checkpoint, change(small_state()), *words)


def test_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.npz does not exist"):
        training.restore(tmp_path / "gone.npz", small_state())
    with pytest.raises(FileNotFoundError, match=r"is not a file"):
        training.restore(tmp_path, small_state())


# What is not saved, and where.


class Nameless:
    """A key of a dict that prints like every other."""

    def __init__(self, rank):
        self.rank = rank

    def __lt__(self, other):
        return self.rank < other.rank

    def __repr__(self):
        return "nameless"


UNSAVED = {
    "no array": ({"layers": ()}, {}, ValueError, "has no array in it"),
    "nothing": (None, {}, ValueError, "state is None"),
    "text": ({"name": "a"}, {}, TypeError, r"'a' as its leaf \['name'\]"),
    "objects": ([np.array([{}])], {}, TypeError, "expected arrays and numbers"),
    "one name for two leaves": (
        {Nameless(0): jnp.ones(2), Nameless(1): jnp.ones(3)},
        {},
        ValueError,
        r"two leaves of the state are called \[nameless\]",
    ),
    "one name for two entries": (
        jnp.ones(2),
        {"best": {1: 0.5, "1": 0.7}},
        ValueError,
        "metadata has the name '1' twice",
    ),
    "no JSON": (jnp.ones(2), {"path": pathlib.Path()}, TypeError, "JSON"),
}


@pytest.mark.parametrize("name", UNSAVED)
def test_what_would_not_come_back_is_not_saved(name, checkpoint):
    state, metadata, error, sentence = UNSAVED[name]
    before = checkpoint.read_bytes()
    with pytest.raises(error, match=sentence):
        training.save(checkpoint, state, metadata)
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["checkpoint.npz"]


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_a_link_stays_a_link_and_its_target_is_replaced(checkpoint):
    disk = checkpoint.parent / "disk"
    disk.mkdir()
    target, link = disk / "a.npz", checkpoint.parent / "link.npz"
    link.symlink_to("second.npz")
    (checkpoint.parent / "second.npz").symlink_to(target)
    for value in (1.0, 2.0):  # to a file that is not there yet, and to one that is
        training.save(link, jnp.full(2, value), value)
        assert link.is_symlink()
        assert training.restore(target, jnp.ones(2))[1] == value
    assert os.listdir(disk) == ["a.npz"]


@pytest.mark.skipif(os.name != "posix", reason="no pipes here")
def test_only_a_regular_file_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "device").symlink_to(os.devnull)
    for name, words in [
        ("folder", r"is a folder; .*folder/checkpoint\.npz"),
        *((name, "is a device, a pipe or a loop") for name in ("pipe", "loop")),
        ("device", "is a device, a pipe or a loop"),
    ]:
        with pytest.raises(ValueError, match=words):
            training.save(tmp_path / name, jnp.ones(2), {})
    assert sorted(os.listdir(tmp_path)) == ["device", "folder", "loop", "pipe"]
    with pytest.raises(FileNotFoundError, match=r"none does not exist; .*Make it"):
        training.save(tmp_path / "none" / "a.npz", jnp.ones(2), {})


def test_failed_save_leaves_the_old_file(checkpoint, monkeypatch):
    before = checkpoint.read_bytes()

    def full_disk(descriptor):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="no space"):
        training.save(checkpoint, small_state(), {})
    assert checkpoint.read_bytes() == before
    assert os.listdir(checkpoint.parent) == ["checkpoint.npz"]


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_killed_saves_leave_a_whole_file(tmp_path):
    script = """
        import sys, numpy as np
        from rnnjax import training
        for i in range(10**6):
            training.save(sys.argv[1], np.full(200_000, i, np.float32), i)
            print(i, flush=True)
    """
    path = tmp_path / "checkpoint.npz"
    for saves in (1, 4, 9):
        command = [sys.executable, "-c", textwrap.dedent(script), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            for _ in range(saves):
                assert process.stdout.readline()
            process.kill()
        template = jax.ShapeDtypeStruct((200_000,), jnp.float32)
        values, i = training.restore(path, template)
        assert i >= saves - 1
        assert (np.asarray(values) == i).all()
