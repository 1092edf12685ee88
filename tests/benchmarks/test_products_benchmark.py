"""The benchmark of products compares what is equal, in a row for each."""

import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import products


@pytest.mark.float32
def test_every_product_has_its_rows_and_is_that_of_xla(capsys):
    products.main(["--quick"])
    table, mean = capsys.readouterr().out.split("\n\n")
    rows = [[word.strip() for word in row.split("|")] for row in table.splitlines()[2:]]
    assert [row[2:4] for row in rows] == [
        [dtype, name] for dtype in ("float32", "bfloat16") for name in products.PRODUCTS
    ]
    assert mean.startswith("faster:")
    given = products.operands((40, 5, 7), jnp.float32)
    for name, functions in products.PRODUCTS.items():
        own, xla = (function(*given[name]) for function in functions)
        np.testing.assert_allclose(own, xla, rtol=1e-4, atol=1e-4)
