"""What the Pallas kernels take of an H100, and what the loops launch there."""

import jax.numpy as jnp
import pytest

import rnnjax
from benchmarks import ahead_of_time, resources
from benchmarks.ahead_of_time import Size
from rnnjax.kernels import equations, shared_memory

WHY = resources.missing()
pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(bool(WHY), reason=WHY),
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
]
H100 = shared_memory.KNOWN["H100"]


@pytest.mark.drawn(0.4)
@pytest.mark.parametrize(
    ("name", "units", "dtype", "signals"),
    [
        ("lstm", 64, jnp.float32, False),
        ("lstm", 128, jnp.bfloat16, True),
        ("gru", 128, jnp.float32, True),
    ],
)
def test_the_largest_kernels_do_not_spill(name, units, dtype, signals):
    cell = resources.CELLS[name]
    assert units == shared_memory.most_units(cell, dtype, H100)
    weights = cell.columns * units**2 * jnp.dtype(dtype).itemsize
    found = resources.kernels(cell, units, dtype, signals=signals)
    assert [at.name for at in found] == ["forward", "backward"]
    for at in found:
        assert at.spilled == 0
        assert weights < at.shared <= weights + 1024 * shared_memory.SCRATCH
        assert at.blocks >= 1


def test_the_compiler_refuses_what_does_not_fit():
    assert not shared_memory.fits(equations.LSTM, 128, jnp.float32, H100)
    with pytest.raises(resources.TooLarge, match=f"available: {1024 * H100}"):
        resources.kernels(equations.LSTM, 128, jnp.float32)


def test_a_step_of_the_default_is_a_few_kernels_that_read_the_weights():
    size = Size(batch=16, time=20, input_size=128, hidden_size=128)
    program = ahead_of_time.gradient(rnnjax.lstm(*size[2:]), size)
    forward, backward = resources.steps(program)
    assert forward.launches <= 8
    assert backward.launches <= 6
    least = 4 * 128 * 512 + 4 * 16 * (512 + 128)
    for step in (forward, backward):
        assert least < step.bytes < 3 * least
