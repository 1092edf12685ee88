import jax
import pytest


@pytest.fixture(autouse=True)
def _standard_promotion():
    """Optax multiplies its integer counters with floats."""
    with jax.numpy_dtype_promotion("standard"):
        yield
