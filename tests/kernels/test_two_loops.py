"""Calls with two loops, of which one makes what the other reads: wrong ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax
from kernels.test_engine import draw
from kernels.test_remade import all_again, gradient  # noqa: F401 (a fixture)
from rnnjax import scan
from rnnjax.kernels import native

pytestmark = [
    pytest.mark.float32,
    pytest.mark.skipif(
        not native.available(), reason=f"no native kernels: {native.reason()}"
    ),
]


@pytest.fixture(params=[(native.REMADE_LOOP, 6), (native.LOOP_AHEAD, 2)])
def call(request, all_again, monkeypatch):  # noqa: F811 (the fixture)
    """The native call of a small gradient: its target, results, operands and rest."""
    wanted, rows = request.param
    calls = []
    made = jax.ffi.ffi_call

    def recorded(target, results, **how):
        def run(*operands, **attributes):
            forms = [np.zeros(a.shape, a.dtype) for a in operands]
            calls.append((target, results, forms, attributes))
            return made(target, results, **how)(*operands, **attributes)

        return run

    monkeypatch.setattr(jax.ffi, "ffi_call", recorded)
    cell = rnnjax.mgu(2, 4, traversal=scan.default)
    gradient(cell).lower(cell.init(jax.random.key(0)), draw(1, (rows, 3, 2)))
    monkeypatch.undo()
    return next(call for call in calls if call[0] == wanted)


def test_a_malformed_call_is_an_error(call):
    target, results, operands, attributes = call

    def refused(results, operands, **other):
        made = jax.ffi.ffi_call(target, results)
        with pytest.raises(jax.errors.JaxRuntimeError, match=f"{target}: "):
            jax.block_until_ready(made(*operands, **(attributes | other)))

    for i, a in enumerate(operands):
        for other in (a[None, ..., :0], a.astype(np.int32)):
            refused(results, [*operands[:i], other, *operands[i + 1 :]])
    refused(results, operands[1:])
    refused(results, [*operands, operands[0]])
    refused(results[1:], operands)
    for i, r in enumerate(results):
        other = jax.ShapeDtypeStruct((*r.shape, 2), r.dtype)
        refused([*results[:i], other, *results[i + 1 :]], operands)
    for wrong in ([-1], [0], [99]):
        places = np.array([*wrong, *attributes["places"][1:]], np.int64)
        refused(results, operands, places=places)
    refused(results, operands, places=attributes["places"][:0])
    made = jax.ffi.ffi_call(target, results)(*operands, **attributes)
    assert all(jnp.isfinite(a).all() for a in made)


@pytest.mark.parametrize("call", [(native.LOOP_AHEAD, 2)], indirect=True)
def test_a_loop_with_a_carry_is_not_made_ahead(call):
    target, results, operands, attributes = call
    carrying = {f"maker_{name}": attributes[name] for name in ("code", "numbers")}
    made = jax.ffi.ffi_call(target, results)
    with pytest.raises(jax.errors.JaxRuntimeError, match="not of one step alone"):
        jax.block_until_ready(made(*operands, **(attributes | carrying)))
