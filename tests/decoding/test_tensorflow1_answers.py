"""Decoders answer like TensorFlow 1: tokens, lengths and scores recorded from it."""

import pathlib
from typing import Any

import jax
import numpy as np
import pytest

import rnnjax


@pytest.mark.float32
@pytest.mark.parametrize("name", ["greedy", "beam"])
def test_answers_of_tensorflow_1(name):
    path = pathlib.Path(__file__).parents[1] / "recorded" / "wrappers_tf1.npz"
    values = {
        key.removeprefix(name + "/"): value
        for key, value in np.load(path).items()
        if key.startswith(name + "/")
    }
    cell = rnnjax.stack(rnnjax.embedding(7, 3), rnnjax.elman(3, 5), rnnjax.dense(5, 7))
    kernel = values["model.decoder.basic_rnn_cell.kernel"]
    bias = values["model.decoder.basic_rnn_cell.bias"]
    dense = [values["model.decoder.logits." + part] for part in ("kernel", "bias")]
    params = (
        values["model.table"],
        rnnjax.ElmanParams(kernel[:3], kernel[3:], bias),
        rnnjax.DenseParams(*dense),
    )
    given: Any = {"steps": 6, "end_token": 2}
    if name == "greedy":

        def decode(h):
            return rnnjax.generate(cell, params, ((), h, ()), 1, **given)

        found = jax.vmap(decode)(values["state"])
        steps = values["tokens"].shape[1]  # TensorFlow stops with the longest
        valid = np.arange(steps) < values["lengths"][:, None]
        np.testing.assert_array_equal(found.length, values["lengths"])
        tokens = np.where(valid, values["tokens"], 0)
        np.testing.assert_array_equal(found.tokens[:, :steps], tokens)
        return

    def search(h):
        return rnnjax.beam_search(cell, params, ((), h, ()), 1, beams=3, **given)

    found = jax.vmap(search)(values["state"])
    np.testing.assert_allclose(found.scores, values["scores"], rtol=1e-5)
    theirs = np.swapaxes(values["tokens"], 1, 2)
    for ours, row, length in zip(
        found.tokens.reshape(9, -1), theirs.reshape(9, -1), found.lengths.ravel(),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours[:length], row[:length])
