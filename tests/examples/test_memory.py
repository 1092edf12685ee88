"""``examples/memory.py``: what its trials ask for, and that cells can be trained."""

import jax
import memory
import numpy as np
import pytest
from programs import main, number, run, same_checkpoints

pytestmark = pytest.mark.float32


def test_memory_quick(tmp_path):
    lines = run("memory", "adding", "--quick", "--plot", "--out", tmp_path)
    assert lines[1].endswith("of 16 steps to train on and 16 to test on")
    assert number("test_right", lines[-1:]) < 0.5
    folder = tmp_path / "adding-gru"
    assert (folder / "curves.png").stat().st_size > 1000
    assert (folder / "checkpoint.npz").is_file()


@pytest.mark.drawn(0.1)
@pytest.mark.parametrize("cell", memory.CELLS)
@pytest.mark.parametrize("task", memory.TASKS)
def test_every_cell_takes_every_task(task, cell, tmp_path, capsys):
    main(memory, task, "--cell", cell, "--quick", "--out", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert 0 <= number("final test_right", lines) <= 1


def test_parity_is_learned_and_holds_ten_times_as_long(tmp_path, capsys):
    main(memory, "parity", "--epochs", 6, "--length", 16, "--out", tmp_path)
    lines = capsys.readouterr().out.splitlines()
    assert number("final test_right", lines) > 0.99


def test_a_longer_run_goes_on_as_if_it_had_not_ended(tmp_path):
    given = ["adding", "--length", 8, "--hidden", 4, "--batch-size", 8]
    main(memory, *given, "--epochs", 2, "--out", tmp_path / "whole")
    main(memory, *given, "--epochs", 1, "--out", tmp_path / "parts")
    main(memory, *given, "--epochs", 2, "--out", tmp_path / "parts", "--resume")
    same_checkpoints(*(tmp_path / name / "adding-gru" for name in ("whole", "parts")))


# The trials.


def drawn(task, length):
    return jax.tree.map(np.asarray, memory.TASKS[task].draw(jax.random.key(1), length))


def test_parity_tells_whether_ones_are_odd():
    bits, wanted, asked = drawn("parity", 50)
    odd = False
    for bit, answer in zip(bits[:, 0], wanted, strict=True):
        odd ^= bool(bit)
        assert answer == odd
    assert set(bits.ravel()) == {0, 1}
    assert asked.all()


def test_adding_marks_one_number_in_each_half():
    xs, wanted, asked = drawn("adding", 21)
    (marked,) = np.nonzero(xs[:, 1])
    first, second = marked
    assert first < 10 <= second
    assert wanted[-1] == pytest.approx(xs[first, 0] + xs[second, 0])
    assert np.nonzero(asked)[0].tolist() == [20]


def test_copy_shows_a_word_a_silence_and_a_sign():
    xs, wanted, asked = drawn("copy", 7)
    assert xs.shape == (27, 10)
    assert (xs.sum(axis=1) == 1).all()
    shown = xs.argmax(axis=1)
    assert shown[10:].tolist() == [8] * 6 + [9] + [8] * 10
    assert np.nonzero(asked)[0].tolist() == list(range(17, 27))
    assert wanted[asked].tolist() == shown[:10].tolist()


def test_majority_tells_the_more_frequent_sign():
    for key in jax.random.split(jax.random.key(0), 4):
        xs, wanted, asked = map(np.asarray, memory.majority(key, 31))
        assert set(xs.ravel()) == {-1, 1}
        assert wanted[-1] == (xs.sum() > 0)
        assert np.nonzero(asked)[0].tolist() == [30]
