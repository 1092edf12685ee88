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
    " --xla_cpu_parallel_codegen_split_count=1 --xla_cpu_prefer_vector_width=128"
    + " --xla_cpu_use_fusion_emitters=false"
    * importlib.metadata.version("jaxlib").startswith("0.10."),
)

import drawn
import jax
import pytest
import watched


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
        "--draw-seed",
        type=int,
        default=int(datetime.date.today().strftime("%Y%m%d")),
        help="what the rows of tests are drawn with: the date of today if left out",
    )
    parser.addoption(
        "--share",
        type=float,
        default=1.0,
        help="draw this share of all tests, and of each day's share of rows: a number "
        "up to 1 (default: %(default)s)",
    )
    parser.addoption(
        "--every-row",
        action="store_true",
        help="run all rows of tests of which each day runs a share",
    )
    parser.addoption(
        "--kills",
        type=int,
        default=2,
        help="how often a process of several that train together is killed",
    )


def pytest_collection_modifyitems(config, items):
    """Leave out rows that today's seed does not draw, unless they are asked for."""
    options = config.option
    named = options.keyword or any("::" in place for place in config.args)
    if not (options.every_row or named):
        items[:], left = drawn.split(items, options.draw_seed, options.share)
        config.hook.pytest_deselected(items=left)


def pytest_terminal_summary(terminalreporter, config):
    seed = config.option.draw_seed
    terminalreporter.write_line(f"Rows of tests were drawn with --draw-seed {seed}.")


@pytest.fixture(autouse=True)
def _precision(request):
    """Run tests in float64, except those marked ``float32``: the users' default."""
    wide = request.node.get_closest_marker("float32") is None
    jax.config.update("jax_enable_x64", wide)
    jax.config.update("jax_numpy_dtype_promotion", "strict" if wide else "standard")
    yield
    jax.config.update("jax_enable_x64", False)
    jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(autouse=True)
def _same_draws(request):
    """Let a test draw the same numbers, whichever of its module ran before it."""
    rng = getattr(request.module, "RNG", None)
    state = rng and rng.bit_generator.state
    yield
    if rng:
        rng.bit_generator.state = state


@pytest.fixture(autouse=True, scope="session")
def _watched_programs():
    """Watch what every program of the native engine does to its memory."""
    with pytest.MonkeyPatch.context() as patch, watched.programs(patch):
        yield


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
