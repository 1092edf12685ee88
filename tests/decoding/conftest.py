"""The params of the decoder, decided rather than near ties."""

import jax
import pytest
from decoding.model import CELL


@pytest.fixture(scope="module")
def model():
    with jax.enable_x64(True):
        params = CELL.init(jax.random.key(3))
        params = jax.tree.map(lambda a: 3 * a, params)
        return params, CELL.initial_carry(params)
