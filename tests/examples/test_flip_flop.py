import flip_flop
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import number, run

pytestmark = pytest.mark.float32


def test_flip_flop_quick(tmp_path):
    lines = run("flip_flop", "--quick", "--plot", "--out", tmp_path)
    assert lines[-3].startswith("fixed points of 64 starts: ")
    assert number("test_accuracy", lines[-1:]) > 0.55
    assert (tmp_path / "fixed_points.png").stat().st_size > 1000
    assert (tmp_path / "checkpoint.npz").is_file()


def test_bits_are_those_of_the_last_pulses():
    pulses, bits = map(np.asarray, flip_flop.trials(jax.random.key(0), 3, 40))
    assert 0.05 < np.mean(pulses[:, 1:] != 0) < 0.15
    held = np.zeros((3, 3))
    for pulse, bit in zip(pulses.swapaxes(0, 1), bits.swapaxes(0, 1), strict=True):
        held = np.where(pulse != 0, pulse, held)
        assert (bit == held).all()
    assert (np.abs(bits) == 1).all()


def test_memories_are_told_by_their_signs():
    rows = jnp.array([[0.9, -1.1, 1.0], [1.2, -0.8, 0.7], [-1, -1, -1]])
    assert flip_flop.memories(rows) == {(1, -1, 1), (-1, -1, -1)}
