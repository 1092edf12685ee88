"""Which traversal is fastest here: the figures for the default of each platform.

    python -m benchmarks.traversals [B,T,I,H …]

prints milliseconds, forward / forward and backward, as a Markdown table. On a GPU it
adds the options that are not the default there, see ``docs/gpu.md``.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from benchmarks import turns
from rnnjax import kernels, scan

# batch, time, input size, hidden size
SIZES = [
    (128, 10, 1, 30),
    (128, 28, 28, 128),
    (64, 100, 128, 256),
    (32, 100, 512, 512),
    (1, 1000, 64, 64),
    (16, 1000, 16, 64),
]
TRAVERSALS = {
    "fused": scan.fused,
    "hoisted": scan.hoisted,
    "deferred": scan.deferred,
    "checkpointed": scan.checkpointed,
    "kernel": kernels.lstm,
}
ON_GPU = {"cuDNN": kernels.lstm_cudnn, "Pallas": kernels.lstm_pallas}
# The size that the literature on GPUs knows.
SIZES_ON_GPU = [(16, 1024, 768, 768)]


def calls(traversal, batch, steps, input_size, hidden_size):
    """The compiled forward and gradient functions of one traversal."""
    cell = rnnjax.lstm(input_size, hidden_size, traversal=traversal)
    params = cell.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    xs = jnp.asarray(rng.normal(size=(batch, steps, input_size)), jnp.float32)

    def loss(params, xs):
        return rnnjax.unroll(cell, params, xs)[1].mean()

    forward = jax.jit(lambda params, xs: rnnjax.unroll(cell, params, xs))
    both = jax.jit(jax.value_and_grad(loss, (0, 1)))
    return [lambda f=f: jax.block_until_ready(f(params, xs)) for f in (forward, both)]


def main(sizes: list[tuple[int, ...]], rounds: int = 9):
    """Time all traversals of a size in alternating rounds; print the medians."""
    gpu = jax.default_backend() == "gpu"
    traversals = TRAVERSALS | (ON_GPU if gpu else {})
    sizes = sizes or SIZES + (SIZES_ON_GPU if gpu else [])
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, float32, LSTM\n")
    print("| B, T, I, H |", " | ".join(traversals), "|")
    print("|---" * (len(traversals) + 1) + "|")
    for size in sizes:
        runs = [run for walk in traversals.values() for run in calls(walk, *size)]
        medians = [f"{1e3 * seconds:.3g}" for seconds in turns.medians(runs, rounds)]
        pairs = zip(medians[::2], medians[1::2], strict=True)
        cells = [" / ".join(pair) for pair in pairs]
        print(f"| {', '.join(map(str, size))} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main([tuple(map(int, size.split(","))) for size in sys.argv[1:]])
