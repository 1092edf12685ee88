"""One program for several platforms: each gets the lowering that is its own."""

import jax
import jax.numpy as jnp
import pytest

import rnnjax
from rnnjax import kernels

pytestmark = pytest.mark.float32

PLATFORMS = ("cpu", "cuda", "tpu")
CELLS = {
    "lstm": rnnjax.lstm(3, 5),
    "gru": rnnjax.gru(3, 5),
    "reset_before": rnnjax.gru(3, 5, reset_after=False),
    "elman": rnnjax.elman(3, 5),
    "mgu": rnnjax.mgu(3, 5),
    "layers": rnnjax.stack(rnnjax.bidirectional(rnnjax.lstm(3, 5)), rnnjax.gru(10, 4)),
}


@pytest.mark.parametrize("name", CELLS)
def test_a_training_step_is_lowered_for_all_platforms_at_once(name):
    cell = CELLS[name]

    def loss(params, xs, lengths):
        return jnp.square(rnnjax.unroll(cell, params, xs, lengths=lengths)[1]).sum()

    given = cell.init(jax.random.key(0)), jnp.ones((4, 7, 3)), jnp.array([7, 0, 3, 1])
    traced = jax.jit(jax.value_and_grad(loss)).trace(*given)
    together = str(traced.lower(lowering_platforms=PLATFORMS).as_text())
    alone = {
        platform: str(traced.lower(lowering_platforms=(platform,)).as_text())
        for platform in PLATFORMS
    }
    # Each platform's kernels are in its own part alone, and a GPU has loops in theirs.
    native = kernels.status().lstm.name == "native"
    targets = ["loop"] if name == "mgu" else ["forward", "backward"]
    for target in targets:
        assert (f"@rnnjax_{target}" in together) == native
        assert (f"@rnnjax_{target}" in alone["cpu"]) == native
    pallas = name != "mgu"
    assert ("@tpu_custom_call" in together) == pallas
    for platform in ("cuda", "tpu"):
        assert "@rnnjax_" not in alone[platform]
        here = pallas and platform == "tpu"
        assert ("@tpu_custom_call" in alone[platform]) == here
        assert ("stablehlo.while" in alone[platform]) != here
    assert together.count("stablehlo.while") >= 2
    assert "stablehlo.case" in together
