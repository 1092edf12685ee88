"""How a step uses its carry: which leaves read which, linearly or not, unit by unit.

`of` reads the jaxpr of a step and proves what traversals and gradients need to know:
that a part of the carry is affine in itself, and along which axes its units see only
themselves. What it cannot prove it takes for nonlinear and for mixed, and says why.

Each element of each array in the program is followed: whether it is constant, affine or
more in the carry, which leaves it reads, and the unit along each axis that it reads.
"""

from rnnjax.structure.parts import Part, name, of, whole

__all__ = ["Part", "name", "of", "whole"]
