"""A cell as a dynamical system: Jacobians, Lyapunov exponents and fixed points.

Everything here is for one example; `jax.jit` and `jax.vmap` apply, over sequences and
over the params of an ensemble, to all but `fixed_points`, which takes many starts at
once and returns as many points as it finds. The state of a cell is its carry as one
vector of ``n`` numbers: its floating leaves in their order, each flattened. Others,
such as flags, have no derivative.
"""

from rnnjax.dynamics.fixed import FixedPoints, fixed_points
from rnnjax.dynamics.local import Linearization, jacobians, linearize, trajectory
from rnnjax.dynamics.spectrum import gradient_norms, lyapunov

__all__ = [
    "FixedPoints",
    "Linearization",
    "fixed_points",
    "gradient_norms",
    "jacobians",
    "linearize",
    "lyapunov",
    "trajectory",
]
