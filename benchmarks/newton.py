"""How many rounds Newton's method takes: which form converges on which recurrence.

    python -m benchmarks.newton [--steps 1000] [--units 16]

trains small cells on a noisy oscillation, makes networks of growing gain, which become
chaotic, and prints a Markdown table of the rounds after which the states of all steps
hold in float64, with the largest Lyapunov exponent. The Kalman form is the trust region
of ELK, solved exactly; the library leaves it out, and the table says why.
"""

import argparse
import functools
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from scipy.linalg import LinAlgError, solveh_banded

import rnnjax
from rnnjax import dynamics, scan

MOST = 200
TOLERANCE = 64 * np.finfo(np.float64).eps

WALKS = {
    "full": {},
    "units": {"jacobian": "units"},
    "diagonal": {"jacobian": "diagonal"},
    "full, block 20": {"block": 20},
    "diagonal, block 20": {"jacobian": "diagonal", "block": 20},
    "full, damping 0.1": {"damping": 0.1},
    "full, damping 0.5": {"damping": 0.5},
}
KALMAN = {"Kalman 1e-6": 1e-6, "Kalman 1e-4": 1e-4, "Kalman 0.01": 0.01}


class Problem(NamedTuple):
    """A cell by its traversal, its params, and a sequence of inputs."""

    cell: Callable[[Any], rnnjax.Cell]
    params: Any
    xs: jax.Array


def oscillation(key: jax.Array, steps: int) -> jax.Array:
    """Noise through a resonant filter: ``(steps, 1)``."""
    noise = np.asarray(jax.random.normal(key, (steps,)))
    xs = np.zeros(steps)
    for t in range(2, steps):
        xs[t] = 1.8 * xs[t - 1] - 0.95 * xs[t - 2] + 0.3 * noise[t]
    return jnp.asarray(xs)[:, None]


def trained(make: Callable[..., rnnjax.Cell], units: int, steps: int) -> Problem:
    """A cell that has learnt to say the next value."""
    model = rnnjax.stack(make(1, units), rnnjax.dense(units, 1))
    params = model.init(jax.random.key(0))
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    batch = jnp.stack([oscillation(jax.random.key(i), 101) for i in range(16)])
    optimizer = optax.adam(1e-2)

    def loss(params):
        _, said = rnnjax.unroll(model, params, batch[:, :-1])
        return jnp.square(said - batch[:, 1:]).mean()

    @jax.jit
    def update(params, state):
        change, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, change), state

    state = optimizer.init(params)
    for _ in range(300):
        params, state = update(params, state)
    xs = oscillation(jax.random.key(99), steps)
    return Problem(lambda walk: make(1, units, traversal=walk), params[0], xs)


def random_network(gain: float, units: int, steps: int) -> Problem:
    """``tanh(W h + x)`` with entries of W of standard deviation gain / sqrt(units)."""

    def cell(walk):
        return rnnjax.elman(1, units, traversal=walk)

    params = cell(None).init(jax.random.key(0))
    w = jax.random.normal(jax.random.key(1), (units, units)) * gain / np.sqrt(units)
    params = jax.tree.map(lambda a: a.astype(jnp.float64), params)
    params = params._replace(w_hh=jnp.asarray(w, jnp.float64))
    return Problem(cell, params, 0.1 * oscillation(jax.random.key(99), steps))


def flat(problem: Problem) -> tuple[Callable, jax.Array]:
    """The step on one vector, and the first one."""
    cell = problem.cell(scan.fused)
    start, back = ravel_pytree(cell.initial_carry(problem.params))

    def step(h, x):
        after, _ = cell.step(problem.params, back(h), x)
        return ravel_pytree(after)[0]

    return step, start


def lyapunov(problem: Problem) -> float:
    """The largest exponent, after a fifth of the steps."""
    cell = problem.cell(scan.fused)
    start = cell.initial_carry(problem.params)
    skip = len(problem.xs) // 5
    given = (cell, problem.params, start, problem.xs)
    return float(dynamics.lyapunov(*given, count=1, skip=skip)[0])


def rounds(problem: Problem, settings: dict[str, Any]) -> int | None:
    """Of `rnnjax.scan.newton`."""
    walk = scan.newton(**settings, max_iterations=MOST, tolerance=TOLERANCE)
    cell = problem.cell(walk)
    start = cell.initial_carry(problem.params)
    report = functools.partial(rnnjax.newton_report, cell)
    (found,) = jax.jit(report)(problem.params, start, problem.xs)
    return int(found.iterations) if found.converged else None


def kalman_rounds(problem: Problem, trust: float) -> int | None:
    """Of Newton's method with ``trust`` times the squared change added to its aim."""
    step, start = flat(problem)
    linearised = jax.jit(
        jax.vmap(lambda h, x: (step(h, x), jax.jacfwd(step)(h, x)), (0, 0))
    )
    time, size = len(problem.xs), len(start)
    states = np.tile(np.asarray(start), (time, 1))
    for done in range(1, MOST + 1):
        before = np.concatenate([np.asarray(start)[None], states[:-1]])
        after, jacobians = map(np.asarray, linearised(before, problem.xs))
        wrong = after - states
        if np.abs(wrong).max() <= TOLERANCE * np.abs(states).max():
            return done
        # (A'A + trust) change = A' wrong, where A = 1 - J shifted by one step.
        right = wrong.copy()
        right[:-1] -= np.einsum("tij,ti->tj", jacobians[1:], wrong[1:])
        diagonal = np.tile((1 + trust) * np.eye(size), (time, 1, 1))
        diagonal[:-1] += np.einsum("tij,tik->tjk", jacobians[1:], jacobians[1:])
        banded = np.zeros((2 * size, time, size))
        for i in range(size):
            for j in range(size):
                if i >= j:
                    banded[i - j, :, j] = diagonal[:, i, j]
                banded[size + i - j, :-1, j] = -jacobians[1:, i, j]
        try:
            change = solveh_banded(
                banded.reshape(2 * size, -1), right.ravel(), lower=True
            )
        except LinAlgError:  # the Jacobians of a wild guess: no digit is left
            return None
        states = states + change.reshape(time, size)
    return None


def problems(units: int, steps: int) -> dict[str, Problem]:
    """Cells that forget, and networks up to chaos."""
    made = {
        "LSTM, trained": trained(rnnjax.lstm, units, steps),
        "GRU, trained": trained(rnnjax.gru, units, steps),
        "Elman, trained": trained(rnnjax.elman, units, steps),
    }
    for gain in (1.0, 1.5, 2.5):
        made[f"tanh, g = {gain}"] = random_network(gain, 2 * units, steps)
    return made


def main(arguments: list[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.newton",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--units", type=int, default=16)
    options = parser.parse_args(arguments)
    jax.config.update("jax_enable_x64", True)
    print(f"jax {jax.__version__}, float64, {options.steps} steps, ", end="")
    print(f"{options.units} units, of the last three twice as many;", end=" ")
    print(f"- is more than {MOST} rounds\n")
    given = problems(options.units, options.steps)
    print("| walk |", " | ".join(given), "|")
    print("|---" * (len(given) + 1) + "|")
    exponents = [f"{lyapunov(problem):.3f}" for problem in given.values()]
    print("| Lyapunov exponent |", " | ".join(exponents), "|", flush=True)
    for name in (*WALKS, *KALMAN):
        found = (
            rounds(p, WALKS[name]) if name in WALKS else kalman_rounds(p, KALMAN[name])
            for p in given.values()
        )
        cells = ["-" if n is None else str(n) for n in found]
        print(f"| {name} |", " | ".join(cells), "|", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
