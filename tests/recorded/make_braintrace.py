"""Record gradients on the way by braintrace, in float64.

    python3.11 -m venv peers
    peers/bin/pip install braintrace==0.2.6 jax==0.10.2
    PYTHONPATH=. peers/bin/python tests/recorded/make_braintrace.py

Each file holds a cell's ``params.*``, ``xs``, the ``weights`` of its outputs, the
outputs ``ys``, and for each rule ``grad.RULE.*``, the sum over all steps of the
gradients of ``(ys * weights)``. The cells are those of
``benchmarks/peers/braintrace_online.py``.
"""

import pathlib

import brainstate
import jax
import numpy as np

from benchmarks.peers import braintrace_online

jax.config.update("jax_enable_x64", True)
brainstate.environ.set(precision=64)

INPUTS, HIDDEN, TIME = 2, 3, 6
UNITWISE, DENSE = ("units",), ("e_prop", "snap", "rtrl")


def gates(count):
    columns = count * HIDDEN
    return {"w_ih": (INPUTS, columns), "w_hh": (HIDDEN, columns), "b": (columns,)}


CASES = {
    "elman": (gates(1), DENSE),
    "lstm": (gates(4), DENSE),
    "lstm_cell": (gates(4), ("e_prop",)),
    "gru": (gates(3) | {"b_hn": (HIDDEN,)}, DENSE),
    "min_gru": ({"w": (INPUTS, 2 * HIDDEN), "b": (2 * HIDDEN,)}, UNITWISE),
    "indrnn": (
        {"w_ih": (INPUTS, HIDDEN), "u": (1, HIDDEN), "b": (HIDDEN,)},
        UNITWISE,
    ),
}


def main():
    for name, (shapes, rules) in CASES.items():
        draw = np.random.default_rng(sum(map(ord, name))).normal
        params = {key: 0.7 * draw(size=shape) for key, shape in shapes.items()}
        xs, weights = draw(size=(TIME, INPUTS)), draw(size=(TIME, HIDDEN))
        stored = {f"params.{key}": value for key, value in params.items()}
        for rule in rules:
            ys, grads = braintrace_online.prepare(name, rule, params)(xs, weights)
            stored |= {f"grad.{rule}.{key}": value for key, value in grads.items()}
        stored |= {"xs": xs, "weights": weights, "ys": ys}
        path = pathlib.Path(__file__).with_name(f"braintrace_{name}.npz")
        np.savez_compressed(path, **{k: np.asarray(v) for k, v in stored.items()})
        print(name)


if __name__ == "__main__":
    main()
