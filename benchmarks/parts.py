"""Where a layer's time goes: ``python -m benchmarks.parts [CELL:B,T,I,H …]``.

The gradient of a layer, and the programs that it is made of, each alone: the walk
forwards that keeps what the backward pass needs, the walk backwards, and the products
that are the gradients of the weights. What the whole takes beyond their sum is memory:
page faults are counted beside each.
"""

import argparse
import resource
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import rnnjax
from rnnjax.kernels import equations, primitives, products

CELLS = {
    "lstm": equations.LSTM,
    "gru": equations.GRU,
    "elman": equations.ELMAN_TANH,
}
SIZES = ("128,28,28,128", "64,100,128,256", "32,100,512,512")
DEFAULT = [f"{cell}:{size}" for size in SIZES for cell in CELLS]


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.parts", description=str(__doc__).split("\n\n")[1]
    )
    parser.add_argument("layers", nargs="*", default=DEFAULT, metavar="CELL:B,T,I,H")
    parser.add_argument("--seconds", type=float, default=1.0, help="for each part")
    options = parser.parse_args(arguments)
    print("milliseconds (median), page faults a call, and share of the gradient")
    for layer in options.layers:
        cell, size = layer.split(":")
        print(f"\n{layer}")
        whole = 0.0
        for name, call in _parts(cell, *map(int, size.split(","))):
            seconds, faults = _time(call, options.seconds)
            whole = whole or seconds
            line = f"  {name:20} {seconds * 1e3:9.2f} {faults:9.0f} "
            print(f"{line}{seconds / whole:6.0%}", flush=True)


def _parts(
    name: str, b: int, t: int, i: int, h: int
) -> list[tuple[str, Callable[[], Any]]]:
    """The gradient first, then its parts, each as a call that is ready to be timed."""
    cell, at = getattr(rnnjax, name)(i, h), CELLS[name]
    params = cell.init(jax.random.key(0))
    xs = jax.random.normal(jax.random.key(1), (b, t, i))

    def loss(params, xs):
        return jnp.square(rnnjax.unroll(cell, params, xs)[1]).sum()

    gradient = jax.jit(jax.grad(loss))
    state, absent = jnp.zeros((b, h)), jnp.zeros(0, bool)
    nothing = [jnp.zeros(0)] * at.carries
    biases = [params.b, *[jnp.zeros(h)] * (not at.joined)]
    start = [state] * at.carries

    @jax.jit
    def forwards(xs):
        return primitives.value_p.bind(
            *(xs, params.w_ih, params.w_hh, *biases, *start, absent, absent, *nothing),
            cell=at,
            residuals=True,
        )

    ys, *rest = forwards(xs)
    saved, *previous = rest[at.carries :]

    @jax.jit
    def backwards(saved, *given):
        return primitives.cotangent_p.bind(saved, *given, *start, cell=at)

    known = (saved, *previous[: at.reads], params.w_hh, absent, absent, ys)
    dz = backwards(*known)[0].reshape(b * t, -1)
    product = jax.jit(products.weight_gradient)
    hidden, inputs = previous[-1].reshape(b * t, h), xs.reshape(b * t, i)
    return [
        ("gradient", lambda: gradient(params, xs)),
        ("forwards", lambda: forwards(xs)),
        ("backwards", lambda: backwards(*known)),
        ("gradient of w_hh", lambda: product(hidden, dz)),
        ("gradient of w_ih", lambda: product(inputs, dz)),
    ]


def _time(call: Callable[[], Any], seconds: float) -> tuple[float, float]:
    """The median, and the page faults of a call."""
    for _ in range(2):
        jax.block_until_ready(call())
    times = []
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        jax.block_until_ready(call())
        times.append(time.perf_counter() - start)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults
    return float(np.median(times)), faults / len(times)


if __name__ == "__main__":
    main()
