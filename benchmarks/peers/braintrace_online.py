"""Gradients on the way by braintrace, of cells with our params, in our letters.

It runs where braintrace is installed, without rnnjax: `benchmarks.online` starts it
there, and ``tests/recorded/make_braintrace.py`` records what it finds. The first cell
is braintrace's own; the others are written in its operations, as its cells are.
"""

from collections.abc import Callable
from itertools import starmap
from typing import Any

import brainstate
import braintrace
import jax
import jax.numpy as jnp
import numpy as np

PACKAGES = ("braintrace", "brainstate", "jax", "jaxlib")

# Their rule, for each of ours.
RULES = {
    "e_prop": (braintrace.D_RTRL, {}),
    "units": (braintrace.D_RTRL, {}),
    "snap": (braintrace.SnAp, {"n": 1}),
    "rtrl": (braintrace.SnAp, {"n": 2}),  # with dense weights all is within reach
}


def linear(w: Any, b: Any = None) -> braintrace.nn.Linear:
    """``x @ w + b``."""
    made = braintrace.nn.Linear(*w.shape, b_init=None if b is None else jnp.zeros)
    bias = {} if b is None else {"bias": jnp.asarray(b)}
    made.weight.value = {"weight": jnp.asarray(w)} | bias
    return made


class Model(brainstate.nn.Module):
    """A cell; ``h`` is what it puts out."""

    def __init__(self, params: dict[str, np.ndarray]):
        super().__init__()
        self.out_size = params["b"].shape[-1] // self.gates
        self.dtype = params["b"].dtype

    gates = 1

    def init_state(self, batch_size=None, **kwargs):
        self.h = brainstate.HiddenState(jnp.zeros(self.out_size, self.dtype))

    def reset_state(self, batch_size=None, **kwargs):
        self.h.value = jnp.zeros(self.out_size, self.dtype)

    def joined(self, params):
        """Columns by gate, and both products as one, as in braintrace's own cells."""
        both = np.concatenate([params["w_ih"], params["w_hh"]])
        columns = np.split(both, self.gates, 1), np.split(params["b"], self.gates)
        return zip(*columns, strict=True)


class Elman(Model):
    def __init__(self, params):
        super().__init__(params)
        inputs = len(params["w_ih"])
        self.cell = braintrace.nn.ValinaRNNCell(
            inputs, self.out_size, activation=jnp.tanh
        )
        self.cell.W = linear(*next(self.joined(params)))

    def update(self, x):
        return self.cell(x)

    def letters(self, grads):
        return parted(grads, "cell.W", inputs=self.cell.in_size[0])


class LSTM(Model):
    """With the states c and o, of which h is made where it is read.

    braintrace takes all states as if none were made of another in the same step.
    """

    gates = 4

    def __init__(self, params):
        super().__init__(params)
        self.inputs = len(params["w_ih"])
        self.Wi, self.Wf, self.Wg, self.Wo = starmap(linear, self.joined(params))

    def init_state(self, batch_size=None, **kwargs):
        super().init_state()
        self.c = brainstate.HiddenState(jnp.zeros(self.out_size, self.dtype))

    def reset_state(self, batch_size=None, **kwargs):
        super().reset_state()
        self.c.value = jnp.zeros(self.out_size, self.dtype)

    def update(self, x):
        xh = jnp.concatenate([x, self.h.value * jnp.tanh(self.c.value)])
        i, f, o = (jax.nn.sigmoid(w(xh)) for w in (self.Wi, self.Wf, self.Wo))
        self.c.value = f * self.c.value + i * jnp.tanh(self.Wg(xh))
        self.h.value = o
        return o * jnp.tanh(self.c.value)

    def letters(self, grads):
        return parted(grads, "Wi", "Wf", "Wg", "Wo", inputs=self.inputs)


class LSTMCell(Model):
    """braintrace's own, in which h is made of the c of the same step."""

    gates = 4

    def __init__(self, params):
        super().__init__(params)
        self.cell = braintrace.nn.LSTMCell(len(params["w_ih"]), self.out_size)
        for gate, (w, b) in zip("ifgo", self.joined(params), strict=True):
            # It adds one at every step; our bias holds it.
            setattr(self.cell, f"W{gate}", linear(w, b - (gate == "f")))

    def update(self, x):
        return self.cell(x)

    def letters(self, grads):
        names = [f"cell.W{gate}" for gate in "ifgo"]
        return parted(grads, *names, inputs=self.cell.in_size[0])


class GRU(Model):
    gates = 3

    def __init__(self, params):
        super().__init__(params)
        self.inputs = len(params["w_ih"])
        (self.Wr, self.Wz) = (linear(*both) for both in list(self.joined(params))[:2])
        w_x, w_h = (np.split(params[name], 3, 1)[2] for name in ("w_ih", "w_hh"))
        self.Wx = linear(w_x, np.split(params["b"], 3)[2])
        self.Wh = linear(w_h, params["b_hn"])

    def update(self, x):
        old = self.h.value
        xh = jnp.concatenate([x, old])
        r, z = jax.nn.sigmoid(self.Wr(xh)), jax.nn.sigmoid(self.Wz(xh))
        n = jnp.tanh(self.Wx(x) + r * self.Wh(old))
        self.h.value = (1 - z) * n + z * old
        return self.h.value

    def letters(self, grads):
        both = parted(grads, "Wr", "Wz", inputs=self.inputs)
        by_x, by_h = (grads[name, "weight"] for name in ("Wx", "Wh"))
        return {
            "w_ih": jnp.concatenate([both["w_ih"], by_x["weight"]], 1),
            "w_hh": jnp.concatenate([both["w_hh"], by_h["weight"]], 1),
            "b": jnp.concatenate([both["b"], by_x["bias"]]),
            "b_hn": by_h["bias"],
        }


class MinGRU(Model):
    gates = 2

    def __init__(self, params):
        super().__init__(params)
        columns = np.split(params["w"], 2, 1), np.split(params["b"], 2)
        self.Wz, self.Wn = map(linear, *columns)

    def update(self, x):
        z = jax.nn.sigmoid(self.Wz(x))
        self.h.value = (1 - z) * self.h.value + z * self.Wn(x)
        return self.h.value

    def letters(self, grads):
        parts = parted(grads, "Wz", "Wn", inputs=None)
        return {"w": parts["w_ih"], "b": parts["b"]}


class IndRNN(Model):
    def __init__(self, params):
        super().__init__(params)
        self.W = linear(params["w_ih"], params["b"])
        self.u = brainstate.ParamState(jnp.asarray(params["u"][0]))

    def update(self, x):
        recalled = braintrace.element_wise(self.u.value) * self.h.value
        self.h.value = jnp.tanh(self.W(x) + recalled)
        return self.h.value

    def letters(self, grads):
        parts = parted(grads, "W", inputs=None)
        return {"w_ih": parts["w_ih"], "u": grads[("u",)][None], "b": parts["b"]}


CELLS = {
    "elman": Elman,
    "lstm": LSTM,
    "lstm_cell": LSTMCell,
    "gru": GRU,
    "min_gru": MinGRU,
    "indrnn": IndRNN,
}


def parted(grads: Any, *names: str, inputs: int | None) -> dict[str, jax.Array]:
    """The gradients of layers, one for each gate, side by side."""
    found = [grads[(*name.split("."), "weight")] for name in names]
    w, b = (
        jnp.concatenate([layer[part] for layer in found], -1)
        for part in ("weight", "bias")
    )
    return {"w_ih": w[:inputs], "w_hh": w[inputs:] if inputs else None, "b": b}


def prepare(
    cell: str, rule: str, params: dict[str, np.ndarray]
) -> Callable[[Any, Any], tuple[jax.Array, dict[str, jax.Array]]]:
    """A compiled ``(xs, weights) -> (ys, gradients of (ys * weights).sum())``."""
    model = CELLS[cell](params)
    made, options = RULES[rule]
    inputs = len(params["w" if cell == "min_gru" else "w_ih"])
    dtype = params["b"].dtype
    learner = braintrace.compile(model, made, jnp.zeros(inputs, dtype), **options)

    @brainstate.transform.jit
    def run(xs, weights):
        brainstate.nn.reset_all_states(model)
        learner.reset_state()

        def step(x, weight):
            y = learner(x)
            return (y * weight).sum(), y

        grads, ys = learner.etrace_grad(
            xs, weights, step_fn=step, reduction="sum", has_aux=True
        )
        return ys, model.letters(grads)

    return run
