"""States that a step does not move, found from many starts at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from rnnjax import checks, floats
from rnnjax.cell import Carry, Cell, Params


class FixedPoints(NamedTuple):
    """The ``p`` points that `fixed_points` found, those of most starts first.

    Attributes:
      carry: a pytree like the carry, the points on the first axis of its leaves.
      speed: half the squared distance that a step moves each point, ``(p,)``.
      jacobian: of the step at each point, ``(p, n, n)``.
      eigenvalues: of the Jacobian, complex, those of largest modulus first, ``(p, n)``.
      starts: how many of the starts came to each point, ``(p,)``.
      missed: how many starts came to none.
    """

    carry: Carry
    speed: np.ndarray
    jacobian: np.ndarray
    eigenvalues: np.ndarray
    starts: np.ndarray
    missed: int

    @property
    def growing(self) -> np.ndarray:
        """In how many directions nearby states move away from each point, ``(p,)``."""
        return (np.abs(self.eigenvalues) > 1).sum(1)

    @property
    def kind(self) -> tuple[str, ...]:
        """``"stable"``, ``"saddle"`` or ``"unstable"`` for each point."""
        size = self.eigenvalues.shape[1]
        names = {0: "stable", size: "unstable"}
        return tuple(names.get(int(count), "saddle") for count in self.growing)


def fixed_points(
    cell: Cell,
    params: Params,
    carries: Carry,
    x: Any,
    *,
    tolerance: float = 1e-5,
    radius: float = 1e-2,
    most: int = 500,
) -> FixedPoints:
    r"""States that a step with one input held fixed does not move.

    .. math:: F(c^*) = c^*, \qquad c, y = step(c_{t-1}, x),\ F(c_{t-1}) = c

    From each start the residual :math:`r = F(c) - c` is made small by
    Levenberg-Marquardt steps :math:`(J^T J + \mu I)\, d = -J^T r` with
    :math:`J = F' - I`. The damping :math:`\mu` shrinks after a step that made the
    residual smaller and grows after one that did not, which is then not taken: unlike
    Newton's method it also finds saddles from afar, and the slowest places where there
    is no fixed point, if you allow them by ``tolerance``.

    Args:
      cell: a cell with a ``step``.
      params: its parameters.
      carries: the starts, on the first axis of each leaf. Good ones are states that
        the cell visits, from `trajectory`, with a little noise.
      x: the input of one step, held fixed, ``(i,)``.
      tolerance: the largest :math:`|r|` of any number in a state that counts as fixed.
      radius: points that differ by no more than this in any number are one; the one
        with the smallest speed is kept.
      most: Levenberg-Marquardt steps from each start.

    Returns:
      `FixedPoints`, of NumPy arrays. ``float64`` (``jax.config.update(
      "jax_enable_x64", True)`` and params cast to it) allows a tolerance of 1e-12.

    Raises:
      NoStepError: for cells that need the whole sequence.
      ValueError: where ``carries`` have no axis of starts.

    Reference: Sussillo, Barak 2013, Opening the black box: low-dimensional dynamics in
    high-dimensional recurrent neural networks, Neural Computation 25; Golub, Sussillo
    2018, FixedPointFinder, JOSS 3(31).

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.elman(1, 1)
    >>> params = cell.init(jax.random.key(0))._replace(w_hh=jnp.array([[2.0]]))
    >>> starts = jnp.linspace(-1, 1, 32)[:, None]
    >>> points = rnnjax.dynamics.fixed_points(cell, params, starts, jnp.zeros(1))
    >>> sorted(zip((100 * points.carry[:, 0]).astype(int).tolist(), points.kind))
    [(-95, 'stable'), (0, 'unstable'), (95, 'stable')]
    """
    checks.model(cell, params)
    count = _starts(carries)
    one = jax.tree.map(lambda a: jnp.asarray(a)[0], carries)
    checks.carry(one, cell.initial_carry(params))
    checks.arrays("x", x)
    tolerance = checks.positive("tolerance", tolerance)
    radius = checks.not_negative("radius", radius)
    found, residual, jacobian = jax.tree.map(
        np.asarray,
        _solve(cell, params, carries, x, tolerance, checks.size("most", most)),
    )
    fixed = np.abs(residual).max(1, initial=0) <= tolerance
    speed = 0.5 * np.square(residual).sum(1)
    order = np.flatnonzero(fixed)[np.argsort(speed[fixed], kind="stable")]
    points, starts = _merged(found[order], radius)
    chosen = order[points][np.argsort(-starts, kind="stable")]
    values = np.linalg.eigvals(jacobian[chosen].astype(np.float64))
    largest = np.argsort(-np.abs(values), axis=1, kind="stable")
    origin = jax.tree.map(lambda a: jnp.asarray(a)[chosen], carries)
    put = jax.vmap(lambda carry, flat: floats.vector(carry)[1](flat))
    return FixedPoints(
        jax.tree.map(np.asarray, put(origin, found[chosen])),
        speed[chosen],
        jacobian[chosen],
        np.take_along_axis(values, largest, axis=1),
        np.sort(starts)[::-1],
        int(count - fixed.sum()),
    )


def _starts(carries: Carry) -> int:
    checks.arrays("carries", carries)
    shapes = [np.shape(leaf) for leaf in jax.tree.leaves(carries)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            f"carries has leaves of shapes {shapes}; expected the same number of "
            "starts on axis 0 of all. Write jax.tree.map(lambda a: a[None], carry) for "
            "a single one."
        )
    return counts.pop()


def _merged(states: np.ndarray, radius: float) -> tuple[np.ndarray, np.ndarray]:
    """The first of each group of states that are close, and how many it has."""
    points: list[int] = []
    starts: list[int] = []
    for number, point in enumerate(states):
        distances = np.abs(states[points] - point).max(1, initial=0)
        close = np.flatnonzero(distances <= radius)
        if close.size:
            starts[close[np.argmin(distances[close])]] += 1
        else:
            points.append(number)
            starts.append(1)
    return np.array(points, int), np.array(starts, int)


@jax.jit
def _solve(cell, params, carries, x, tolerance, most):
    """From each start a state, what a step adds to it, and the step's Jacobian."""

    def from_one(carry):
        first, put = floats.vector(carry)
        eye = jnp.eye(first.size, dtype=first.dtype)

        def residual(c):
            after, _ = cell.step(params, put(c), x)
            return floats.vector(after)[0] - c

        def goes_on(held):
            _, r, _, taken = held
            return (taken < most) & (jnp.abs(r).max() > tolerance / 4)

        def improve(held):
            c, r, damping, taken = held
            j = jax.jacfwd(residual)(c)
            d = jnp.linalg.solve(j.T @ j + damping * eye, -(j.T @ r))
            tried = residual(c + d)
            better = (tried @ tried) < (r @ r)
            damping = jnp.clip(damping * jnp.where(better, 0.3, 4.0), 1e-12, 1e12)
            kept = jnp.where(better, c + d, c), jnp.where(better, tried, r)
            return *kept, damping.astype(first.dtype), taken + 1

        held = first, residual(first), jnp.asarray(1e-2, first.dtype), 0
        c, r, _, _ = jax.lax.while_loop(goes_on, improve, held)
        return c, r, jax.jacfwd(residual)(c) + eye

    return jax.vmap(from_one)(carries)
