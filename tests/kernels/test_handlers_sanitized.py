"""The whole library under sanitizers, called by a running JAX."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rnnjax.kernels import compile as build

FLAGS = (
    *("-O1", "-g1", "-DRNNJAX_PORTABLE_ALONE"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
)

PROGRAM = """
import sys
from pathlib import Path
import jax, jax.numpy as jnp, numpy as np
from rnnjax.kernels import compile as build, native
build.LIBRARY = Path(sys.argv[1])
assert native.available(), native.reason()
from tests.kernels import test_native as laws

for cell in laws.CELLS:
    shapes = ((7, 3, 33, 65), (2, 5, 3, 7), (3, 0, 4, 20), (0, 2, 3, 4))
    for dtype, tried in ((np.float32, shapes), (jnp.bfloat16, shapes[:1])):
        for shape in tried:
            problem = laws.Problem(cell, shape, "mask+reset", dtype=dtype)
            if shape[0] and shape[1]:
                laws.check_values_and_gradients(problem, 1e-1)
            results = problem.forward(residuals=True)
            jax.block_until_ready(problem.backward(results[1 + len(problem.carry) :]))
    laws.test_axes_of_one_element_after_the_batch_change_nothing(cell)
for dtype in (np.float32, jnp.bfloat16):
    laws.test_products_of_parts_are_the_products_of_each(dtype)
for wrong in laws.WRONG:
    laws.test_a_wrong_shape_is_an_error(*wrong)
laws.test_a_wrong_dtype_count_or_result_is_an_error()
laws.test_a_cell_without_a_kernel_is_an_error()
for wrong in laws.WRONG_GRADIENTS:
    laws.test_a_weight_gradient_of_wrong_shapes_is_an_error(wrong)
for wrong in laws.WRONG_PRODUCTS:
    laws.test_a_weight_product_of_wrong_shapes_is_an_error(wrong)

from tests.kernels import test_linear as recurrences

for shape, rows in (*((s, recurrences.ROWS) for s in recurrences.SHAPES),
                    *zip(recurrences.LARGE, (5, 1))):
    for shared, reverse in ((False, False), (True, True)):
        a, b = recurrences.problem(shape, rows, shared)
        found = recurrences.solved(a, b, reverse)
        np.testing.assert_allclose(
            found, recurrences.walked(a, b, reverse), 1e-4, 1e-5)
for wrong in recurrences.WRONG:
    recurrences.test_wrong_shapes_are_an_error(*wrong)

# Loops, and gradients that make values again in one part and in several.
import rnnjax
from rnnjax import scan
from rnnjax.kernels import remade

remade.LARGE = 1
remade._is_affine = lambda *_: True
for cell in (rnnjax.mlstm, rnnjax.delta_net, rnnjax.gru):
    for rows, steps in ((1, 150), (9, 70)):
        xs = np.random.default_rng(0).normal(size=(rows, steps, 5)).astype("f")

        def gradient(walk):
            made = cell(5, 16, traversal=walk)

            def loss(params, xs):
                carry = made.initial_carry(params)
                run = lambda xs: made.unroll(params, carry, xs)[1]
                return jnp.sin(jax.vmap(run)(xs)).sum()

            return jax.jit(jax.grad(loss, (0, 1)))(made.init(jax.random.key(0)), xs)

        for ours, theirs in zip(*map(jax.tree.leaves, map(
                gradient, (scan.default, scan.by_scan)))):
            np.testing.assert_allclose(ours, theirs, 1e-3, 1e-3)

# Every argument and result of both calls, each in its turn wrong in size, and for one
# cell in rank and in dtype too, and left out.
def expect_error(call, arguments):
    try:
        jax.block_until_ready(call(*arguments))
    except Exception as error:
        assert "rnnjax_" in str(error), error
    else:
        raise AssertionError("a malformed call was taken")

count = 0
for cell in laws.CELLS:
    problem = laws.Problem(cell, (2, 3, 4, 8), "mask+reset")
    results = problem.forward(residuals=True)
    forward = (problem.forward_arguments(), problem.forward_results(True))
    residuals = results[1 + len(problem.carry) :]
    backward = (problem.backward_arguments(residuals), problem.backward_results())
    for target, (arguments, shapes), attributes in (
        (native.FORWARD, forward, {"residuals": True}),
        (native.BACKWARD, backward, {}),
    ):
        def call(*arguments, shapes=shapes):
            made = jax.ffi.ffi_call(target, shapes)
            return made(*arguments, cell=cell, reverse=False, **attributes)

        arguments = [jnp.asarray(a) for a in arguments]
        for i, a in enumerate(arguments):
            others = [a[..., :-1]]
            if cell is laws.CELLS[0]:
                others += [a[None], jnp.zeros((), a.dtype), a.astype(jnp.int32)]
                expect_error(call, arguments[:i] + arguments[i + 1 :])
            for other in others:
                expect_error(call, [*arguments[:i], other, *arguments[i + 1 :]])
            count += len(others)
        for i, s in enumerate(shapes):
            other = jax.ShapeDtypeStruct((*s.shape[:-1], s.shape[-1] + 1), s.dtype)
            bad = [*shapes[:i], other, *shapes[i + 1 :]]
            expect_error(lambda *a: call(*a, shapes=bad), arguments)
            few = shapes[:i] + shapes[i + 1 :]
            expect_error(lambda *a: call(*a, shapes=few), arguments)
            count += 2
print(count, "malformed calls were refused")
"""


def to_preload(compiler):
    """The address sanitizer, and the library in which it looks for exceptions."""
    found = []
    for name in ("libasan.so", "libstdc++.so.6"):
        command = [*compiler, f"-print-file-name={name}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        path = Path(done.stdout.strip())
        if not (path.is_absolute() and path.exists()):
            return None
        found.append(str(path.resolve()))
    return " ".join(found)


@pytest.mark.drawn(0.35)
def test_handlers_run_clean_under_a_running_jax(tmp_path, monkeypatch):
    compiler = build.find_compiler()
    preloaded = to_preload(compiler) if compiler else None
    if not preloaded:
        pytest.skip("no C++ compiler with libasan.so to load before Python")
    monkeypatch.setattr(build, "instruction_sets", lambda: {"portable": []})
    library = build.compile_library(tmp_path / "_native.so", flags=FLAGS)
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(library)],
        capture_output=True,
        text=True,
        check=False,
        cwd=root,
        env={
            **os.environ,
            "LD_PRELOAD": preloaded,
            # Python and jaxlib leave memory to the system when they end.
            "ASAN_OPTIONS": "detect_leaks=0",
            "PYTHONPATH": str(root),
        },
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    assert "malformed calls were refused" in done.stdout
