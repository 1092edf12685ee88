"""Products with weights beside those of XLA: ``python -m benchmarks.products``.

It prints milliseconds of :math:`x W + b`, of the gradient of the inputs and of that of
the weights, for layers of the workloads in `benchmarks.compare`, and how many times
faster the kernels are. Both take turns.
"""

import argparse
import itertools
import statistics

import jax
import jax.numpy as jnp

from benchmarks import turns
from rnnjax.kernels import products

# All steps of all examples, inputs and outputs.
SHAPES = {
    "C": (16_000, 16, 256),
    "E, logits": (700, 200, 10_000),
    "F": (6_400, 128, 1_024),
    "G": (3_200, 512, 2_048),
    "I": (4_096, 128, 512),
}
QUICK = {"quick": (64, 5, 7)}
ROUNDS = 21

PRODUCTS = {
    "x W + b": (products.affine, lambda x, w, b: x @ w + b),
    "dy W^T": (
        lambda dy, w: products.weight_product(dy, w, turned=True),
        lambda dy, w: dy @ w.T,
    ),
    "x^T dy": (products.weight_gradient, lambda x, dy: x.T @ dy),
}


def operands(shape, dtype):
    """What each of the products takes."""
    rows, inputs, outputs = shape
    keys = iter(jax.random.split(jax.random.key(0), 4))
    x, w, b, dy = (
        jax.random.normal(next(keys), size, dtype)
        for size in ((rows, inputs), (inputs, outputs), (outputs,), (rows, outputs))
    )
    return {"x W + b": (x, w, b), "dy W^T": (dy, w), "x^T dy": (x, dy)}


def call_of(fun, given):
    """The compiled product of these operands, as a call."""
    compiled = jax.jit(fun)
    return lambda: jax.block_until_ready(compiled(*given))


def main(arguments=None):
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args(arguments).quick
    shapes, rounds = (QUICK, 1) if quick else (SHAPES, ROUNDS)
    faster = []
    print("| layer | dtype | product | kernel, ms | XLA, ms | faster |")
    print("|---|---|---|---|---|---|")
    dtypes = jnp.float32, jnp.bfloat16
    for (layer, shape), dtype in itertools.product(shapes.items(), dtypes):
        for name, given in operands(shape, dtype).items():
            calls = [call_of(fun, given) for fun in PRODUCTS[name]]
            own, theirs = (1e3 * s for s in turns.medians(calls, rounds))
            faster.append(theirs / own)
            row = [layer, jnp.dtype(dtype).name, name, f"{own:.3g}", f"{theirs:.3g}"]
            print("|", " | ".join([*row, f"{faster[-1]:.2f}"]), "|", flush=True)
    mean = statistics.geometric_mean(faster)
    print(f"\nfaster: {min(faster):.2f} to {max(faster):.2f}, mean {mean:.2f}")


if __name__ == "__main__":
    main()
