"""The native library is loaded, or left out with a reason."""

import os
import subprocess
import sys

import pytest

from rnnjax.kernels import compile as build
from rnnjax.kernels import native

pytestmark = pytest.mark.skipif(
    not native.available(), reason=f"no native kernels: {native.reason()}"
)


def test_kernels_compiled_for_a_newer_interface_are_left_out(monkeypatch):
    monkeypatch.setattr(native, "_installed_interface", lambda: (0, 0))
    with pytest.warns(RuntimeWarning, match="runs without its CPU kernels"):
        library, why = native._load.__wrapped__()
    assert library is None
    assert "the installed jaxlib has 0.0; run `python -m" in why


def damaged(content):
    """Ways in which a copy or an installation goes wrong."""
    middle = len(content) // 2
    return {
        "empty": b"",
        "short": content[:middle],
        "without its end": content[:-1],
        "one bit": content[:middle]
        + bytes([content[middle] ^ 1])
        + content[middle + 1 :],
        "another file": b"not a library at all",
    }


@pytest.mark.parametrize(
    "how", ["empty", "short", "without its end", "one bit", "another file"]
)
def test_a_damaged_library_is_left_out_with_one_warning(tmp_path, how):
    """In a process of its own: loaded, it would kill the process that tests."""
    library = tmp_path / "_native.so"
    library.write_bytes(damaged(build.LIBRARY.read_bytes())[how])
    program = f"""
from pathlib import Path
import jax.numpy as jnp, jax
from rnnjax.kernels import compile as build, status
build.LIBRARY = Path({str(library)!r})
import rnnjax
cell = rnnjax.lstm(3, 5)
params = cell.init(jax.random.key(0))
for time in (4, 5):
    assert jnp.isfinite(rnnjax.unroll(cell, params, jnp.ones((2, time, 3)))[1]).all()
print(status().lstm)
"""
    done = subprocess.run(
        [sys.executable, "-W", "always", "-c", program],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "name='reference'" in done.stdout
    assert "damaged or from an older build; run `python -m" in done.stdout
    assert done.stderr.count("runs without its CPU kernels") == 1


@pytest.mark.parametrize(
    ("variable", "value", "available", "reason"),
    [
        ("RNNJAX_KERNELS", "reference", False, "turned off by RNNJAX_KERNELS"),
        ("RNNJAX_ISA", "portable", True, "portable"),
        ("RNNJAX_ISA", "vax", False, "no RNNJAX_ISA=vax"),
    ],
)
def test_environment_variables(variable, value, available, reason):
    program = (
        "from rnnjax.kernels import native; print(native.available(), native.reason())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, variable: value},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith(f"{available} ")
    assert reason in result.stdout
    assert result.stderr == ""
