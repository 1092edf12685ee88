"""Four tasks that are easy to state and hard to remember, for any of several cells.

    python examples/memory.py parity --cell gru
    python examples/memory.py adding --length 200
    python examples/memory.py copy
    python examples/memory.py majority

parity: after each bit, whether the number of ones so far is odd; tested on sequences
ten times as long. adding: the sum of the two numbers that are marked, one in each half
of the sequence. copy: ten symbols, a silence of --length steps, and the same symbols
again. majority: which of two signs was the more frequent of 16,385.
"""

import argparse
import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import command
import jax
import jax.numpy as jnp
import optax
from jax import Array

import rnnjax
from rnnjax import training

CELLS = ("elman", "gru", "lstm", "min_gru", "lem", "cornn", "unitary", "lru")
UPDATES = 100  # in an epoch
ENOUGH = 0.999  # right answers, with which a run ends
SETTINGS = ("cell", "hidden", "length", "epochs", "batch_size", "lr")
SYMBOLS, WORD = 8, 10  # of copy: how many there are, and how many are to be copied


class Trial(NamedTuple):
    """Inputs ``(t, i)``, what is wanted ``(t,)`` and at which steps, ``(t,)`` bool."""

    xs: Array
    wanted: Array
    asked: Array


class Task(NamedTuple):
    """How trials are drawn and judged, and settings with which a cell learns it."""

    draw: Callable[[Array, int], Trial]
    outputs: int
    loss: Callable[[Array, Array], Array]
    right: Callable[[Array, Array], Array]
    cell: str
    hidden: int
    length: int
    longer: int  # how many times as long are the sequences to test on
    epochs: int
    batch_size: int
    lr: float


# The tasks.


def parity(key: Array, length: int) -> Trial:
    """Bits, and the parity of each beginning."""
    bits = jax.random.bernoulli(key, shape=(length,))
    odd = jnp.cumsum(bits) % 2
    return Trial(_floats(bits)[:, None], _floats(odd), jnp.ones(length, bool))


def adding(key: Array, length: int) -> Trial:
    """Numbers from 0 to 1 and marks beside them; the sum is asked for at the end."""
    keys = jax.random.split(key, 3)
    half = length // 2
    numbers = jax.random.uniform(keys[0], (length,))
    first = jax.random.randint(keys[1], (), 0, half)
    second = jax.random.randint(keys[2], (), half, length)
    marks = jnp.zeros(length).at[jnp.stack([first, second])].set(1.0)
    total = jnp.sum(numbers * marks)
    return Trial(jnp.stack([numbers, marks], axis=1), *_at_the_end(total, length))


def copy(key: Array, length: int) -> Trial:
    """A word, a silence, a sign, and the time to say the word; one-hot inputs."""
    word = jax.random.randint(key, (WORD,), 0, SYMBOLS)
    silence = jnp.full(length + WORD, SYMBOLS).at[length - 1].set(SYMBOLS + 1)
    xs = jax.nn.one_hot(jnp.concatenate([word, silence]), SYMBOLS + 2)
    wanted = jnp.concatenate([jnp.zeros(length + WORD, word.dtype), word])
    return Trial(xs, wanted, jnp.arange(length + 2 * WORD) >= length + WORD)


def majority(key: Array, length: int) -> Trial:
    """Random signs; whether more were positive is asked for at the end."""
    signs = jax.random.rademacher(key, (length,), jnp.float32)
    return Trial(signs[:, None], *_at_the_end(_floats(signs.sum() > 0), length))


def _floats(a: Array) -> Array:
    return a.astype(jnp.float32)


def _at_the_end(answer: Array, length: int) -> tuple[Array, Array]:
    last = jnp.arange(length) == length - 1
    return jnp.where(last, answer, 0.0), last


# How answers are judged: outputs (..., outputs) and what is wanted (...).


def bit_loss(ys: Array, wanted: Array) -> Array:
    return optax.sigmoid_binary_cross_entropy(ys[..., 0], wanted)


def bit_right(ys: Array, wanted: Array) -> Array:
    return (ys[..., 0] > 0) == (wanted > 0.5)


def number_loss(ys: Array, wanted: Array) -> Array:
    return (ys[..., 0] - wanted) ** 2


def number_right(ys: Array, wanted: Array) -> Array:
    """By the measure of Hochreiter and Schmidhuber 1997."""
    return jnp.abs(ys[..., 0] - wanted) < 0.04


def symbol_right(ys: Array, wanted: Array) -> Array:
    return ys.argmax(axis=-1) == wanted


symbol_loss = optax.softmax_cross_entropy_with_integer_labels
TASKS = {
    "parity": Task(
        draw=parity,
        outputs=1,
        loss=bit_loss,
        right=bit_right,
        cell="gru",
        hidden=16,
        length=32,
        longer=10,
        epochs=20,
        batch_size=64,
        lr=1e-2,
    ),
    "adding": Task(
        draw=adding,
        outputs=1,
        loss=number_loss,
        right=number_right,
        cell="gru",
        hidden=32,
        length=200,
        longer=1,
        epochs=30,
        batch_size=64,
        lr=3e-3,
    ),
    "copy": Task(
        draw=copy,
        outputs=SYMBOLS,
        loss=symbol_loss,
        right=symbol_right,
        cell="unitary",
        hidden=64,
        length=100,
        longer=1,
        epochs=20,
        batch_size=64,
        lr=1e-3,
    ),
    "majority": Task(
        draw=majority,
        outputs=1,
        loss=bit_loss,
        right=bit_right,
        cell="lru",
        hidden=8,
        length=16_385,
        longer=1,
        epochs=6,
        batch_size=16,
        lr=3e-3,
    ),
}


def build(task: Task, options: argparse.Namespace) -> rnnjax.Cell:
    """The cell and a dense layer; a linear one is in a residual block."""
    hidden, inputs = options.hidden, _inputs(task)
    # States at every step of so long a sequence are memory that a loop can save.
    walk: dict[str, Any] = (
        {"traversal": rnnjax.scan.checkpointed} if options.length > 4096 else {}
    )
    if options.cell == "lru":
        # Units remember a tenth of a sequence or more, and turn in it once at most.
        ring = {"min_radius": 1 - 10 / (options.length + 10)}
        ring |= {"max_radius": 1 - 1 / (options.length + 10)}
        ring |= {"max_phase": 2 * math.pi / options.length}
        cell = rnnjax.lru(hidden, hidden, **ring, **walk)
        block = rnnjax.residual_block(cell, hidden)
        layers = [rnnjax.dense(inputs, hidden), block]
    else:
        layers = [getattr(rnnjax, options.cell)(inputs, hidden, **walk)]
    read = 2 * hidden if options.cell == "unitary" else hidden  # complex units
    return rnnjax.stack(*layers, rnnjax.dense(read, task.outputs))


def _inputs(task: Task) -> int:
    shapes = jax.eval_shape(lambda key: task.draw(key, 2), jax.random.key(0))
    return shapes.xs.shape[-1]


def functions(task: Task, cell: rnnjax.Cell, length: int):
    """``loss(params, batch, key)``, and ``judge(params, keys)`` of longer trials."""

    def judged(params, keys, length):
        """How many answers were asked for; of these the loss, and the right ones."""
        trials = jax.vmap(lambda key: task.draw(key, length))(keys)
        _, ys = rnnjax.unroll(cell, params, trials.xs)
        answers = ys, trials.wanted
        counts = {"loss": task.loss(*answers), "right": task.right(*answers)}
        sums = {n: (a * trials.asked).sum(axis=1) for n, a in counts.items()}
        return trials.asked.sum(axis=1), sums

    def loss(params, batch, key):
        # The batch has no trials, only their number: each update draws its own.
        asked, sums = judged(params, jax.random.split(key, len(batch)), length)
        means = {name: a.sum() / asked.sum() for name, a in sums.items()}
        return means.pop("loss"), means

    def judge(params, keys):
        return judged(params, keys, length * task.longer)

    return loss, judge


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    add = parser.add_argument
    add("task", choices=TASKS, nargs="?", default="parity")
    add("--cell", choices=CELLS)
    add("--hidden", type=command.positive)
    add("--length", type=command.positive, help="of a sequence, or of the silence")
    add("--epochs", type=command.positive, help=f"of {UPDATES} updates, at most")
    add("--batch-size", type=command.positive)
    add("--lr", type=command.nonnegative)
    command.add_run(
        parser,
        "runs/memory",
        plot="write a picture to --out",
        quick="1 epoch, sequences of 16 steps, 8 units",
    )
    options = parser.parse_args(arguments)
    for name in SETTINGS:
        if getattr(options, name) is None:
            setattr(options, name, getattr(TASKS[options.task], name))
    if options.quick:
        options.epochs, options.length, options.hidden = 1, 16, 8
    return options


def main(options: argparse.Namespace) -> None:
    began = time.perf_counter()
    name = f"{options.task}-{options.cell}"
    command.check_out(options, name)
    print(training.environment())
    task = TASKS[options.task]
    cell = build(task, options)
    loss, judge = functions(task, cell, options.length)
    keys = jax.random.split(jax.random.key(options.seed), 4)
    params = cell.init(keys[0])
    print(
        f"{options.task}: sequences made here, of {options.length} steps to train on "
        f"and {options.length * task.longer} to test on"
    )
    print(f"model {cell}, {training.parameter_count(params)} parameters")

    def score(params, key):
        """The share of right answers to 500 trials, and their mean loss."""
        asked, sums = training.predict(
            judge, params, jax.random.split(key, 500), batch_size=50
        )
        means = {name: a.sum() / asked.sum() for name, a in sums.items()}
        return {f"test_{name}": mean for name, mean in means.items()}

    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(options.lr))
    config = {n: getattr(options, n) for n in ("task", "seed", *SETTINGS)}
    del config["epochs"]  # the rate is constant, so a run can have more
    state = training.init(params, optimizer, keys[1])
    state, history = command.begin(options, state, config, name)
    state, history = training.fit(
        training.epoch(loss, optimizer, batch_size=options.batch_size),
        state,
        jnp.arange(UPDATES * options.batch_size),
        epochs=options.epochs,
        out=options.out / name,
        config=config,
        evaluate=lambda params: score(params, keys[2]),
        history=history,
        stop=lambda history: bool(history) and history[-1]["test_right"] >= ENOUGH,
        overwrite=options.overwrite,
    )
    if options.plot:
        path = options.out / name / "curves.png"
        rnnjax.plot.curves({name: history}).savefig(path)
        print(f"wrote {path}")
    final = score(state.params, keys[3])  # trials that decided nothing
    print(
        f"final test_right {float(final['test_right']):.4f}  "
        f"test_loss {float(final['test_loss']):.2e}  "
        f"updates {UPDATES * len(history)}  "
        f"training {sum(record['seconds'] for record in history):.1f} s  "
        f"total {time.perf_counter() - began:.1f} s"
    )


if __name__ == "__main__":
    command.run(parse, main)
