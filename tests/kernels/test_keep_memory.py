"""Memory that a process keeps for its next calls."""

import subprocess
import sys

import pytest

from rnnjax.kernels import keep_memory

PROGRAM = """
import resource, sys
import jax, jax.numpy as jnp
import rnnjax

if "keep" in sys.argv:
    assert rnnjax.kernels.keep_memory()
# A gradient that needs 60 megabytes, which are gone with it.
cell = rnnjax.mgu(8, 64)
params = cell.init(jax.random.key(0))
xs = jnp.ones((32, 1200, 8))
gradient = jax.jit(jax.grad(lambda p: rnnjax.unroll(cell, p, xs)[1].sum()))

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    jax.block_until_ready(gradient(params))
before = faults()
for _ in range(5):
    jax.block_until_ready(gradient(params))
print((faults() - before) / 5)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is for glibc")
def test_a_call_finds_the_memory_of_the_one_before():
    def faults(*arguments):
        command = [sys.executable, "-c", PROGRAM, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return float(done.stdout)

    assert faults("keep") < faults() / 2


def test_elsewhere_nothing_is_set(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_memory()
