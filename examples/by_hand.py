"""Unroll an LSTM by hand, from a state that you choose, and print every gate.

python examples/by_hand.py
"""

import argparse

import command
import jax
import jax.numpy as jnp
import numpy as np

import rnnjax

TIME, INPUT_SIZE, HIDDEN_SIZE = 4, 3, 2


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = command.parser(__doc__)
    parser.add_argument("--quick", action="store_true", help="only two steps")
    return parser.parse_args(arguments)


def main(options: argparse.Namespace) -> None:
    time = 2 if options.quick else TIME
    cell = rnnjax.lstm(INPUT_SIZE, HIDDEN_SIZE)
    params = cell.init(jax.random.key(0))
    xs = np.random.default_rng(0).normal(size=(time, INPUT_SIZE)).astype(np.float32)

    # The state before the first step: the memory c and the output h.
    start = rnnjax.LSTMCarry(c=jnp.array([0.5, -0.5]), h=jnp.array([0.1, 0.2]))

    print(f"{cell}\n\nThe equations in NumPy, step by step:")
    w_ih, w_hh, b = (np.asarray(weight) for weight in params)
    c, h = (np.asarray(state) for state in start)
    by_hand = []
    for t, x in enumerate(xs):
        i, f, g, o = np.split(x @ w_ih + h @ w_hh + b, 4)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * c + i * g
        h = o * np.tanh(c)
        by_hand.append(h)
        print(f"step {t}")
        print(f"  input gate   i = {i}")
        print(f"  forget gate  f = {f}")
        print(f"  candidate    g = {g}")
        print(f"  output gate  o = {o}")
        print(f"  memory       c = f c + i g    = {c}")
        print(f"  output       h = o tanh(c)    = {h}")

    print("\nThe same by cell.step, in a Python loop:")
    carry, stepped = start, []
    for t, x in enumerate(xs):
        carry, y = cell.step(params, carry, x)
        stepped.append(y)
        print(f"step {t}  h = {y}")

    print("\nThe same by cell.unroll, compiled for the whole sequence:")
    last, ys = jax.jit(cell.unroll)(params, start, xs)
    print(f"ys =\n{ys}\nlast carry = {last}")

    print("\nThe same by rnnjax.trace, with every gate by its name:")
    print(rnnjax.trace(cell, params, start, xs))

    for name, other in (("cell.step", np.stack(stepped)), ("cell.unroll", ys)):
        difference = np.max(np.abs(np.stack(by_hand) - other))
        print(f"final largest difference from {name}: {difference:.1e}")
        np.testing.assert_allclose(other, np.stack(by_hand), rtol=1e-4, atol=1e-6)


if __name__ == "__main__":
    command.run(parse, main)
