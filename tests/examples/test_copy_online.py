import json

import copy_online
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import run

pytestmark = pytest.mark.float32


def test_copy_online_quick():
    lines = run("copy_online", "--quick", "--rule", "snap")
    result = json.loads(lines[-1].split("  ")[0])
    assert (result["rule"], result["steps"]) == ("snap", 1000)
    assert result["length"] >= 1


def test_a_stream_shows_bits_and_asks_for_the_same():
    held, length = copy_online.stream(jax.random.key(0)), jnp.int32(3)
    inputs, targets, counts = [], [], []
    for _ in range(14):  # two sequences of three bits, a sign and three answers
        held, x, target, counted = copy_online.shown(held, length)
        inputs.append(np.asarray(x))
        targets.append(float(target))
        counts.append(bool(counted))
    assert counts == ([False] * 4 + [True] * 3) * 2
    for begin in (0, 7):
        shown = np.stack(inputs[begin : begin + 3])
        assert (shown[:, :2].sum(1) == 1).all()
        assert targets[begin + 4 : begin + 7] == shown[:, 0].tolist()
        assert [x[2] for x in inputs[begin : begin + 7]] == [0, 0, 0, 1, 0, 0, 0]
        assert np.abs(inputs[begin + 4 : begin + 7]).max() == 0
