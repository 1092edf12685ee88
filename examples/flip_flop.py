"""Remember three bits, and look at how: a network's memories are its fixed points.

    python examples/flip_flop.py --plot

Each of three inputs is silent but for rare pulses of +1 or -1. Each of three outputs is
to hold the sign of the last pulse of its input. After training, the program searches
for states that a step with silent inputs does not move. A network that has learned the
task has a stable one for each of the eight memories, with saddles between them.
"""

import argparse
import time
from typing import NamedTuple

import command
import jax
import jax.numpy as jnp
import optax
from jax import Array

import rnnjax
from rnnjax import dynamics, training

BITS = 3
PULSES = 0.1  # of the steps, for each input


class Trials(NamedTuple):
    """Sequences ``(b, t, 3)`` of pulses, and the bits to be held."""

    pulses: Array
    bits: Array


def trials(key: Array, count: int, time: int) -> Trials:
    """Draw trials; every bit is set at the first step."""
    where, which = jax.random.split(key)
    shape = (count, time, BITS)
    happens = jax.random.bernoulli(where, PULSES, shape).at[:, 0].set(True)
    pulses = jnp.where(happens, jax.random.rademacher(which, shape, jnp.float32), 0.0)

    def hold(bits, pulse):
        bits = jnp.where(pulse == 0, bits, pulse)
        return bits, bits

    def held(pulses):
        return jax.lax.scan(hold, jnp.zeros(BITS), pulses)[1]

    return Trials(pulses, jax.vmap(held)(pulses))


def memories(outputs: Array) -> set[tuple[int, ...]]:
    """The different bits among outputs, by their signs."""
    return {tuple(int(v) for v in row) for row in jnp.sign(outputs)}


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--hidden", type=command.positive, default=24)
    add("--epochs", type=command.positive, default=30)
    add("--trials", type=command.positive, default=4096)
    add("--steps", type=command.positive, default=64, help="in a trial")
    add("--batch-size", type=command.positive, default=128)
    add("--starts", type=command.positive, default=1024, help="of the search")
    command.add_run(
        parser,
        "runs/flip_flop",
        plot="write a picture to --out",
        quick="2 epochs of 512 trials, 64 starts",
    )
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    command.check_out(options)
    if options.quick:
        options.epochs, options.trials, options.starts = 2, 512, 64
    print(training.environment())
    keys = jax.random.split(jax.random.key(options.seed), 5)
    data = trials(keys[0], options.trials, options.steps)
    test = trials(keys[1], 256, options.steps)
    print(
        f"data made here: {options.trials} trials of {options.steps} steps to train "
        f"on, {len(test.bits)} to test on"
    )
    network = rnnjax.gru(BITS, options.hidden)
    cell = rnnjax.stack(network, rnnjax.dense(options.hidden, BITS))

    def loss(params, batch, key):
        _, ys = rnnjax.unroll(cell, params, batch.pulses)
        return jnp.mean((ys - batch.bits) ** 2), {}

    @jax.jit
    def evaluate(params):
        _, ys = rnnjax.unroll(cell, params, test.pulses)
        return {
            "test_mse": jnp.mean((ys - test.bits) ** 2),
            "test_accuracy": jnp.mean(jnp.sign(ys) == test.bits),
        }

    updates = options.trials // options.batch_size * options.epochs
    schedule = optax.cosine_onecycle_schedule(updates, 1e-2)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))
    config = {
        name: getattr(options, name)
        for name in ("hidden", "epochs", "trials", "steps", "batch_size", "seed")
    }
    params = cell.init(keys[2])
    print(f"model {cell}, {training.parameter_count(params)} parameters")
    state = training.init(params, optimizer, keys[3])
    state, history = command.begin(options, state, config)
    began = time.perf_counter()
    state, history = training.fit(
        training.epoch(loss, optimizer, batch_size=options.batch_size),
        state,
        data,
        epochs=options.epochs,
        out=options.out,
        config=config,
        evaluate=evaluate,
        history=history,
        overwrite=options.overwrite,
    )
    took = time.perf_counter() - began

    of_network, of_read_out = state.params
    visited = jax.vmap(dynamics.trajectory, (None, None, None, 0))(
        network, of_network, network.initial_carry(of_network), test.pulses
    )
    # Between two states that it visits: saddles lie between memories.
    key_which, key_where = jax.random.split(keys[4])
    states = visited.reshape(-1, options.hidden)
    one, other = jax.random.choice(key_which, states, (2, options.starts))
    starts = one + jax.random.uniform(key_where, (options.starts, 1)) * (other - one)
    points = dynamics.fixed_points(network, of_network, starts, jnp.zeros(BITS))
    kinds = points.kind
    stable = jnp.array([kind == "stable" for kind in kinds], bool)
    read = jnp.asarray(points.carry) @ of_read_out.w + of_read_out.b
    print(
        f"fixed points of {options.starts} starts: {int(stable.sum())} stable, "
        f"{len(kinds) - int(stable.sum())} others; {points.missed} starts missed"
    )
    held = len(memories(read[stable]))
    if options.plot:
        figure = rnnjax.plot.phase_portrait(visited[:32], points)
        path = options.out / "fixed_points.png"
        figure.savefig(path)
        print(f"wrote {path}")
    print(
        f"final test_accuracy {float(history[-1]['test_accuracy']):.4f}  "
        f"test_mse {float(history[-1]['test_mse']):.2e}  stable {int(stable.sum())}  "
        f"memories {held} of {2**BITS}  training {took:.1f} s"
    )


if __name__ == "__main__":
    command.run(parse, main)
