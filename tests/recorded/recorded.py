"""How the scripts of this folder draw what they are given and store what they find.

A stored case is one .npz file: ``params.*``, ``xs``, ``carry.*`` and ``lengths`` in,
``ys`` and ``last.*`` out, with ``grad.*`` the gradients, by all that goes in, of the
sum of all that comes out times ``weight.*``.
"""

import pathlib

import numpy as np

BATCH, TIME = 3, 5
LENGTHS = np.array([5, 0, 3])


def drawer(name):
    """A function that draws arrays, the same ones at every run of a script."""
    rng = np.random.default_rng(sum(map(ord, name)))
    return lambda *shape: rng.normal(size=shape) * 0.7


def given(draw, params, xs_shape, carry):
    arrays = {f"params.{k}": draw(*shape) for k, shape in params.items()}
    arrays["xs"] = draw(BATCH, TIME, *xs_shape)
    arrays.update({f"carry.{k}": draw(BATCH, *shape) for k, shape in carry.items()})
    return arrays


def part(arrays, prefix):
    return {k[len(prefix) :]: v for k, v in arrays.items() if k.startswith(prefix)}


def store(name, given, out, weights, grads):
    # Also read by Python 3.7, which cannot join two dictionaries by a bar.
    stored = {**given, **out, **{f"weight.{k}": w for k, w in weights.items()}}
    stored.update({f"grad.{k}": g for k, g in grads.items()})
    arrays = {k: np.asarray(v) for k, v in stored.items()}
    path = pathlib.Path(__file__).with_name(f"{name}.npz")
    np.savez_compressed(path, lengths=LENGTHS, **arrays)  # pyright: ignore
    print(name)
