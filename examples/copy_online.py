"""Copy memory learned while it goes on: how far each rule gets.

    python examples/copy_online.py

An input shows some random bits, then a sign, and the network is to repeat the bits.
This goes on for ever, sequence after sequence, and the params change at every step. As
soon as the network needs less than 0.15 bits for each bit that it repeats, sequences
get longer by one. The length that is reached after some steps tells how far back a rule
learns.
"""

import argparse
import json
import time
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import optax
from jax import Array

import rnnjax
from rnnjax import online, training

RULES = {
    "rtrl": online.rtrl(),
    "snap": online.snap(1),
    "uoro": online.uoro(),
    "kf_rtrl": online.kf_rtrl(),
    "e_prop": online.e_prop(),
    "tbptt-2": online.tbptt(1, 2),
    "tbptt-20": online.tbptt(1, 20),
}
LONGEST = 64
CHUNK = 500  # steps between two looks at the loss
ENOUGH = 0.15  # bits for each bit


class Stream(NamedTuple):
    """One endless sequence of tasks: what is to be repeated, and where it stands."""

    bits: Array
    position: Array
    key: Array


def stream(key: Array) -> Stream:
    return Stream(jnp.zeros(LONGEST, bool), jnp.zeros((), jnp.int32), key)


def shown(stream: Stream, length: Array) -> tuple[Stream, Array, Array, Array]:
    """The next stream, this step's input ``(3,)``, its target and whether it counts."""
    key, draw = jax.random.split(stream.key)
    bit = jax.random.bernoulli(draw)
    place = stream.position
    showing = place < length
    bits = jnp.where(showing, stream.bits.at[place].set(bit), stream.bits)
    repeating = place > length
    target = bits[place - length - 1] & repeating
    sign = jnp.stack([showing & bit, showing & ~bit, place == length])
    ends = place == 2 * length
    later = Stream(bits, jnp.where(ends, 0, place + 1), key)
    return later, sign.astype(jnp.float32), target.astype(jnp.float32), repeating


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("--rule", choices=[*RULES, "all"], default="all")
    add("--cell", choices=["gru", "lstm"], default="gru")
    add("--hidden", type=command.positive, default=24)
    add("--steps", type=command.positive, default=60_000, help="of each rule")
    add("--streams", type=command.positive, default=8, help="side by side")
    add("--lr", type=command.nonnegative, default=3e-3)
    add("--seed", type=command.seed, default=0)
    add("--quick", action="store_true", help="1,000 steps of 8 units, 4 streams")
    return parser.parse_args(arguments)


def learn(rule: online.Rule, options: argparse.Namespace) -> tuple[int, float]:
    """The length that a rule reaches, and the microseconds of a step."""
    make = getattr(rnnjax, options.cell)
    cell = rnnjax.stack(make(3, options.hidden), rnnjax.dense(options.hidden, 1))
    learner = online.learner(cell, rule)
    optimizer = optax.adam(options.lr)
    keys = jax.random.split(jax.random.key(options.seed), 3)
    params = cell.init(keys[0])
    streams = jax.vmap(stream)(jax.random.split(keys[1], options.streams))

    def begin(key):
        return learner.init(params, jnp.zeros(3), key=key if rule.draws else None)

    states = jax.vmap(begin)(jax.random.split(keys[2], options.streams))

    def step(held, length):
        params, moments, states, streams = held
        streams, xs, targets, counts = jax.vmap(shown, (0, None))(streams, length)
        ys, pull, states = jax.vmap(learner.step, (None, 0, 0))(params, states, xs)

        def loss(ys):
            nats = optax.sigmoid_binary_cross_entropy(ys[:, 0], targets)
            return jnp.sum(nats * counts) / options.streams

        total, dys = jax.value_and_grad(loss)(ys)
        grads = jax.vmap(lambda pull, dy: pull(dy))(pull, dys)
        grads = jax.tree.map(lambda a: a.sum(0), grads)
        updates, moments = optimizer.update(grads, moments, params)
        params = optax.apply_updates(params, updates)
        return (params, moments, states, streams), (total, counts.mean())

    @jax.jit
    def chunk(held, length):
        held, (totals, counts) = jax.lax.scan(
            lambda held, _: step(held, length), held, length=CHUNK
        )
        return held, totals.sum() / counts.sum() / jnp.log(2)

    held: Any = (params, optimizer.init(params), states, streams)
    length, seconds = 1, 0.0
    chunks = max(options.steps // CHUNK, 1)
    for number in range(chunks):
        began = time.perf_counter()
        held, bits = chunk(held, length)
        bits = float(bits)
        if number or chunks == 1:  # the first one is compiled
            seconds += time.perf_counter() - began
        if bits < ENOUGH:
            length = min(length + 1, LONGEST)
    return length, 1e6 * seconds / (max(chunks - 1, 1) * CHUNK)


def main(options: argparse.Namespace) -> None:
    if options.quick:
        options.steps, options.hidden, options.streams = 1000, 8, 4
    print(training.environment())
    chosen = {n: r for n, r in RULES.items() if options.rule in (n, "all")}
    for name, rule in chosen.items():
        length, microseconds = learn(rule, options)
        result = {"rule": name, "length": length, "steps": options.steps}
        print(f"{json.dumps(result)}  {microseconds:.0f} µs for a step", flush=True)


if __name__ == "__main__":
    command.run(parse, main)
