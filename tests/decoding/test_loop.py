"""The loop under all ways of decoding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import rnnjax


@pytest.mark.parametrize("stop_early", [True, False])
def test_a_raw_loop_freezes_each_example_when_it_is_finished(stop_early):
    """A counter that runs to a limit of each example's own."""
    counter = rnnjax.recurrence(
        lambda key: jnp.zeros(()),
        lambda params: jnp.zeros((), int),
        lambda params, x: x,
        lambda params, carry, x: (carry + x, carry + x),
    )

    def count(limit):
        def follow(t, carry, y, state):
            return rnnjax.Next(jnp.array(1), carry, y, y >= limit, state + 1)

        return rnnjax.raw_unroll(
            counter, jnp.zeros(()), jnp.array(0), 1, follow, 0, steps=6,
            finished=limit == 0, stop_early=stop_early,
        )  # fmt: skip

    found = jax.jit(jax.vmap(count))(np.array([3, 0, 9]))
    expected = [[1, 2, 3, 0, 0, 0], [0] * 6, [1, 2, 3, 4, 5, 6]]
    np.testing.assert_array_equal(found.emits, expected)
    assert found.length.tolist() == [3, 0, 6]
    assert found.carry.tolist() == [3, 0, 6]
    assert found.state.tolist() == [3, 0, 6]
