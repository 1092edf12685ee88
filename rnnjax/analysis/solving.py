"""How the states of a sequence were found."""

from typing import Any

from rnnjax import checks
from rnnjax.analysis.harvest import harvest
from rnnjax.cell import Carry, Cell, Params
from rnnjax.scan import Report


def newton_report(
    cell: Cell,
    params: Params,
    carry: Carry,
    xs: Any,
    *,
    mask: Any = None,
    reset: Any = None,
    key: Any = None,
) -> tuple[Report, ...]:
    """How `rnnjax.scan.newton` found the states of one sequence.

    There is a report for each cell that walks so, in the order in which they run: one
    for a cell, several for a stack. The arguments are those of ``unroll``. For a batch,
    ``jax.vmap`` it.

    Raises:
      ValueError: no cell walks with `rnnjax.scan.newton`.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.gru(3, 4, traversal=rnnjax.scan.newton())
    >>> params = cell.init(jax.random.key(0))
    >>> (report,) = rnnjax.newton_report(
    ...     cell, params, cell.initial_carry(params), jnp.ones((1000, 3)))
    >>> bool(report.converged), int(report.iterations) < 10
    (True, True)
    """
    checks.cell("cell", cell)

    def unroll(params, carry, xs):
        return cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)

    _, found = harvest(unroll, params, carry, xs)
    fields = [
        [one.value for one in found if one.name == f"newton.{field}"]
        for field in Report._fields
    ]
    reports = tuple(Report(*each) for each in zip(*fields, strict=True))
    if not reports:
        raise ValueError(
            f"cell is {cell}, of which no part walks with rnnjax.scan.newton. Write "
            "rnnjax.gru(3, 4, traversal=rnnjax.scan.newton()), for example."
        )
    return reports
