"""Make the constants that the minimal gated unit is held against, with Flax.

    pip install flax==0.12.8
    python tests/recorded/make_flax.py

As in ``make_tensorflow.py``: our params go in, and outputs and gradients are Flax's.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import recorded
from recorded import LENGTHS, TIME

INPUTS, HIDDEN = 2, 3
jax.config.update("jax_enable_x64", True)


def mgu(p, xs, carry):
    cell = nn.MGUCell(HIDDEN, param_dtype=jnp.float64)
    (i_f, i_n), (h_f, h_n) = (jnp.split(p[k], 2, axis=1) for k in ("w_ih", "w_hh"))
    b_f, b_n = jnp.split(p["b"], 2)
    theirs = {
        "if": {"kernel": i_f, "bias": b_f},
        "in": {"kernel": i_n, "bias": b_n},
        "hf": {"kernel": h_f},
        "hn": {"kernel": h_n, "bias": p["b_hn"]},
    }
    h, ys = carry["h"], []
    for t in range(TIME):
        valid = (t < LENGTHS)[:, None]
        after, y = cell.apply({"params": theirs}, h, xs[:, t])
        h = jnp.where(valid, after, h)
        ys.append(jnp.where(valid, y, 0))
    return jnp.stack(ys, axis=1), {"h": h}


def main():
    draw = recorded.drawer("flax_mgu")
    shapes = {"w_ih": (INPUTS, 6), "w_hh": (HIDDEN, 6), "b": (6,), "b_hn": (HIDDEN,)}
    given = recorded.given(draw, shapes, (INPUTS,), {"h": (HIDDEN,)})

    def run(given):
        carry = recorded.part(given, "carry.")
        ys, last = mgu(recorded.part(given, "params."), given["xs"], carry)
        return {"ys": ys} | {f"last.{k}": v for k, v in last.items()}

    out, pull = jax.vjp(run, jax.tree.map(jnp.asarray, given))
    weights = {k: draw(*v.shape) for k, v in out.items()}
    (grads,) = pull(jax.tree.map(jnp.asarray, weights))
    recorded.store("flax_mgu", given, out, weights, grads)


if __name__ == "__main__":
    main()
