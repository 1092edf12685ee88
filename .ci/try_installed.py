"""Try an installed rnnjax, not this tree: python .ci/try_installed.py."""

import importlib.metadata
import platform
from pathlib import Path

import jax
import jax.numpy as jnp

import rnnjax

TREE = Path(__file__).parents[1]


def value_and_gradient(cell, params, xs):
    """Of a loss of a batch, compiled: all arrays in a list."""

    def loss(params):
        return jnp.mean(rnnjax.unroll(cell, params, xs)[1] ** 2)

    return jax.tree.leaves(jax.jit(jax.value_and_grad(loss))(params))


place = Path(rnnjax.__file__)
assert TREE / "rnnjax" not in place.parents, f"{place} is the tree, not an installation"
assert importlib.metadata.version("rnnjax") == rnnjax.__version__
print(f"Python {platform.python_version()}, jax {jax.__version__}, {place.parent}")

xs = jax.random.normal(jax.random.key(1), (4, 50, 3))
for make in (rnnjax.lstm, rnnjax.gru, rnnjax.elman):
    cell = make(3, 8)
    walked = make(3, 8, traversal=rnnjax.scan.default)
    params = cell.init(jax.random.key(0))
    for one, other in zip(
        value_and_gradient(cell, params, xs),
        value_and_gradient(walked, params, xs),
        strict=True,
    ):
        assert jnp.allclose(one, other, rtol=1e-4, atol=1e-6), make.__name__

status = rnnjax.kernels.status()
print(status)
assert status.lstm.name == "native", "the compiled kernels do not run"
