"""Strict settings: double precision, strict promotion, quick compilation."""

import datetime
import importlib.metadata
import os
import pathlib

# Programs here are tiny and run once: compiling them is most of the time of a test.
# The older emitters do it twice as fast; newer versions refuse the flag.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import jax
import pytest


def pytest_addoption(parser):
    parser.addoption(
        "--whole-product",
        action="store_true",
        help="all rows of the contract's product of cells, traversals, combinators "
        "and dtypes; without it, a sample",
    )
    parser.addoption(
        "--product-part",
        default="1/1",
        help="of the whole product every Nth, from the Kth: K/N (default: %(default)s)",
    )
    parser.addoption(
        "--product-seed",
        type=int,
        default=int(datetime.date.today().strftime("%Y%m%d")),
        help="what the sample is drawn with: the date of today if left out",
    )
    parser.addoption(
        "--whole-tpu",
        action="store_true",
        help="the TPU's kernels at every size, and under the contract; without it, at "
        "a few sizes",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=2,
        help="how often a process of several that train together is killed",
    )


def pytest_terminal_summary(terminalreporter, config):
    reports = [r for found in terminalreporter.stats.values() for r in found]
    if any("test_product.py" in getattr(r, "nodeid", "") for r in reports):
        seed = config.option.product_seed
        terminalreporter.write_line(
            f"The sample of the product was drawn with --product-seed {seed}."
        )


@pytest.fixture(autouse=True)
def _precision(request):
    """Run tests in float64, except those marked ``float32``: the users' default."""
    wide = request.node.get_closest_marker("float32") is None
    jax.config.update("jax_enable_x64", wide)
    jax.config.update("jax_numpy_dtype_promotion", "strict" if wide else "standard")
    yield
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")


_MAPPINGS = pathlib.Path("/proc/self/maps")


@pytest.fixture(autouse=True)
def _forget_programs():
    """Drop compiled programs before there are too many for one process.

    Each takes a few mappings of memory, of which Linux gives a process 65,530; the
    program after that ends Python.
    """
    yield
    if _MAPPINGS.exists() and _MAPPINGS.read_bytes().count(b"\n") > 20_000:
        jax.clear_caches()
