"""What a device holds of a wide stack, from the compiled update.

    XLA_FLAGS=--xla_force_host_platform_device_count=8 \\
        python -m benchmarks.sharding [LAYERS,B,T,H]

prints megabytes on each device as a Markdown table. The update is compiled and not run.
What the native kernels take for themselves, their packed weights, is not in it.
"""

import sys
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

import rnnjax

SIZE = (4, 64, 100, 1024)


def main(size: tuple[int, ...] = SIZE) -> None:
    """Print the table."""
    layers, batch, time, units = size
    cell = rnnjax.stack(*[rnnjax.lstm(units, units) for _ in range(layers)])
    count = jax.device_count()
    print(f"jax {jax.__version__}, {layers} LSTMs of {units} units, ", end="")
    print(f"batch {batch}, {time} steps, float32, Adam\n")
    print("| sharded | devices | params and moments | temporaries |")
    print("|---|---|---|---|")
    for name, devices, rows, weights in (
        ("nothing", 1, P(), P()),
        ("the batch", count, P("data"), P()),
        ("the batch, and weights over their inputs", count, P("data"), P("data")),
        ("the batch, and weights over gates", count, P("data"), P(None, "data")),
    ):
        mesh = jax.make_mesh(
            (devices,),
            ("data",),
            axis_types=(AxisType.Auto,),
            devices=jax.devices()[:devices],
        )
        held, temporary = memory(cell, mesh, (batch, time, units), rows, weights)
        print(f"| {name} | {devices} | {held / 2**20:.0f} | {temporary / 2**20:.0f} |")


def memory(
    cell: rnnjax.Cell,
    mesh: jax.sharding.Mesh,
    shape: tuple[int, ...],
    rows: P,
    weights: P,
) -> tuple[int, int]:
    """Bytes on each device: of params and moments, and of temporaries."""
    optimizer = optax.adam(1e-3)

    def placed(tree, spec):
        def place(a):
            sharding = NamedSharding(mesh, spec if a.ndim > 1 else P())
            return jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding)

        return jax.tree.map(place, tree)

    params = jax.eval_shape(cell.init, jax.random.key(0))
    state = placed((params, jax.eval_shape(optimizer.init, params)), weights)
    xs = placed(jax.ShapeDtypeStruct(shape, jnp.float32), rows)

    def update(state, xs):
        def loss(params):
            return jnp.square(rnnjax.unroll(cell, params, xs)[1]).mean()

        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    shardings = jax.tree.map(lambda a: a.sharding, state)
    step = jax.jit(update, donate_argnums=0, out_shardings=shardings)
    analysis: Any = step.lower(state, xs).compile().memory_analysis()
    of_xs = xs.sharding.shard_shape(xs.shape)
    held = analysis.argument_size_in_bytes - 4 * of_xs[0] * of_xs[1] * of_xs[2]
    return held, analysis.temp_size_in_bytes


if __name__ == "__main__":
    given = [tuple(map(int, argument.split(","))) for argument in sys.argv[1:]]
    main(*given)
