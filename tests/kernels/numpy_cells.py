"""Recurrences and their gradients in plain NumPy float64, from the papers.

LSTM: Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000.
GRU: Cho et al. 2014, and with the reset gate applied after the product (cuDNN's).
Elman: Elman 1990. Gate orders are i, f, g, o and r, z, n.
"""

from __future__ import annotations

import numpy as np

COLUMNS = {"lstm": 4, "gru": 3, "gru_before": 3, "elman_tanh": 1, "elman_relu": 1}


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def step(cell, weights, carry, x):
    """The new carry, and what its gradient needs."""
    h = carry[-1]
    a = x @ weights["w_ih"] + weights["b"]
    if cell == "gru_before":
        a_r, a_z, a_n = np.split(a, 3, axis=-1)
        w_r, w_z, w_n = np.split(weights["w_hh"], 3, axis=-1)
        r, z = sigmoid(a_r + h @ w_r), sigmoid(a_z + h @ w_z)
        n = np.tanh(a_n + (r * h) @ w_n)
        return ((1 - z) * n + z * h,), (r, z, n)
    u = h @ weights["w_hh"]
    if cell == "lstm":
        i, f, g, o = np.split(a + u, 4, axis=-1)
        i, f, g, o = sigmoid(i), sigmoid(f), np.tanh(g), sigmoid(o)
        c = f * carry[0] + i * g
        return (c, o * np.tanh(c)), (i, f, g, o, c)
    if cell == "gru":
        a_r, a_z, a_n = np.split(a, 3, axis=-1)
        u_r, u_z, u_n = np.split(u, 3, axis=-1)
        r, z, q = sigmoid(a_r + u_r), sigmoid(a_z + u_z), u_n + weights["b_hn"]
        n = np.tanh(a_n + r * q)
        return ((1 - z) * n + z * h,), (r, z, n, q)
    new = np.tanh(a + u) if cell == "elman_tanh" else np.maximum(a + u, 0)
    return (new,), (new,)


def step_gradient(cell, weights, carry, saved, d_carry):
    """Gradients of x @ w_ih + b, of the recurrent product, and of the carry."""
    h = carry[-1]
    if cell == "lstm":
        i, f, g, o, c = saved
        dc, dh = d_carry
        dc = dc + dh * o * (1 - np.tanh(c) ** 2)
        da = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * carry[0] * f * (1 - f),
                dc * i * (1 - g**2),
                dh * np.tanh(c) * o * (1 - o),
            ],
            axis=-1,
        )
        return da, da, (dc * f, da @ weights["w_hh"].T)
    (dh,) = d_carry
    if cell == "gru":
        r, z, n, q = saved
        dn = dh * (1 - z) * (1 - n**2)
        dr, dz = dn * q * r * (1 - r), dh * (h - n) * z * (1 - z)
        du = np.concatenate([dr, dz, dn * r], axis=-1)
        return (
            np.concatenate([dr, dz, dn], axis=-1),
            du,
            (dh * z + du @ weights["w_hh"].T,),
        )
    if cell == "gru_before":
        r, z, n = saved
        w_r, w_z, w_n = np.split(weights["w_hh"], 3, axis=-1)
        dn, dz = dh * (1 - z) * (1 - n**2), dh * (h - n) * z * (1 - z)
        d_product = dn @ w_n.T
        dr = d_product * h * r * (1 - r)
        da = np.concatenate([dr, dz, dn], axis=-1)
        return da, da, (dh * z + d_product * r + dr @ w_r.T + dz @ w_z.T,)
    (new,) = saved
    da = dh * (1 - new**2) if cell == "elman_tanh" else dh * (new > 0)
    return da, da, (da @ weights["w_hh"].T,)


def weight_gradient(cell, h, saved, du):
    """Of ``w_hh``, for the rows of any number of steps."""
    if cell != "gru_before":
        return h.T @ du
    *others, dn = np.split(du, 3, axis=-1)
    left = h.T @ np.concatenate(others, axis=-1)
    return np.concatenate([left, (saved[0] * h).T @ dn], axis=-1)


def where(condition, a, b):
    return tuple(np.where(condition[:, None], x, y) for x, y in zip(a, b, strict=True))


def unroll(cell, weights, carry, reset_carry, xs, mask, reset):
    """Outputs (batch, time, hidden), the last carry, and a tape for `gradients`."""
    ys, tape = [], []
    for t in range(xs.shape[1]):
        x = np.where(mask[:, t, None], xs[:, t], 0)
        used = where(reset[:, t] & mask[:, t], reset_carry, carry)
        stepped, saved = step(cell, weights, used, x)
        carry = where(mask[:, t], stepped, carry)
        ys.append(np.where(mask[:, t, None], carry[-1], 0))
        tape.append((x, used, saved))
    shape = (*xs.shape[:2], carry[-1].shape[-1])
    return np.stack(ys, axis=1) if ys else np.zeros(shape), carry, tape


def gradients(cell, weights, tape, mask, reset, dys, d_last):
    """Gradients for the weights, the first carry and the reset carry."""
    d_weights = {name: np.zeros_like(value) for name, value in weights.items()}
    d_carry = d_last
    d_reset = tuple(np.zeros_like(d) for d in d_last)
    for t in reversed(range(len(tape))):
        x, used, saved = tape[t]
        valid = mask[:, t, None]
        entering = (*d_carry[:-1], d_carry[-1] + dys[:, t])
        da, du, before = step_gradient(cell, weights, used, saved, entering)
        da, du = np.where(valid, da, 0), np.where(valid, du, 0)
        d_weights["w_ih"] += x.T @ da
        d_weights["w_hh"] += weight_gradient(cell, used[-1], saved, du)
        d_weights["b"] += da.sum(0)
        if cell == "gru":
            d_weights["b_hn"] += np.split(du, 3, axis=-1)[2].sum(0)
        resets = reset[:, t] & mask[:, t]
        zeros = tuple(np.zeros_like(d) for d in before)
        d_reset = tuple(
            a + b for a, b in zip(d_reset, where(resets, before, zeros), strict=True)
        )
        d_carry = where(mask[:, t], where(resets, zeros, before), d_carry)
    return d_weights, d_carry, d_reset
