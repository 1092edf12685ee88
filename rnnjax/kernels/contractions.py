"""Sums of products of two arrays, as loops over both of them.

They are products of values within a step, such as a matrix memory with a query. The
products with weights that all rows share are another matter, see
`rnnjax.kernels.fusions`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from jax.extend.core import Literal

from rnnjax.kernels import flat
from rnnjax.kernels.nodes import LONG

Loops = list[tuple[int, int, int]]
"""The sizes of nested loops, and the strides of both factors of a product in them."""


class Work(NamedTuple):
    """What the engine is told: the factors in their order, and its loops over them."""

    factors: list[Any]
    details: list[int]

    def rows(self) -> tuple[int, int] | None:
        """The sizes of an outer product with long rows, or nothing."""
        (i, ai, bi), (j, aj, bj), (l, al, bl) = self._loops()
        plain = (al, bl, aj, bj) == (0, 1, 1, 0) and (i == 1 or (ai, bi) == (j, l))
        return (l, j) if plain and self._unsummed(l) else None

    def scaled(self) -> bool:
        """Whether it scales long rows, which a block does."""
        (i, _, _), (_, aj, bj), (l, al, bl) = self._loops()
        return i == 1 and (al, bl, aj, bj) == (0, 1, 1, l) and self._unsummed(l)

    def _loops(self) -> Iterator[tuple[int, int, int]]:
        return zip(*[iter(self.details[:9])] * 3, strict=True)

    def _unsummed(self, row: int) -> bool:
        return self.details[9:] == [1, 0, 0] * 2 and row >= LONG


class Contraction(NamedTuple):
    """Two arrays, the loops over the result, and those over what is summed."""

    a: Any
    b: Any
    loops: Loops
    sums: Loops

    def work(self) -> Work | None:
        """The same for the engine, if it has so many loops.

        The last of its loops is along neighbours in the second factor, wherever one is
        along neighbours in one of them.
        """
        loops, sums, factors = _merged(self.loops), _merged(self.sums), [self.a, self.b]
        if len(loops) > 3 or len(sums) > 2:
            return None
        loops = [(1, 0, 0)] * (3 - len(loops)) + loops
        sums = [(1, 0, 0)] * (2 - len(sums)) + sums
        if loops[-1][1:] == (1, 0):
            factors.reverse()
            loops, sums = ([(n, b, a) for n, a, b in part] for part in (loops, sums))
        return Work(factors, [x for one in (*loops, *sums) for x in one])


def of_product(eqn: Any) -> Contraction:
    """The contraction that a ``dot_general`` is."""
    a, b = eqn.invars
    summed, blocks = eqn.params["dimension_numbers"]
    along_a, along_b = _along(a.aval.shape), _along(b.aval.shape)

    def free(along, i):
        return [n for n in range(len(along)) if n not in (*summed[i], *blocks[i])]

    def both(axes):
        return [(*along_a[i], along_b[j][1]) for i, j in zip(*axes, strict=True)]

    loops = both(blocks)
    loops += [(*along_a[i], 0) for i in free(along_a, 0)]
    loops += [(along_b[j][0], 0, along_b[j][1]) for j in free(along_b, 1)]
    return Contraction(a, b, loops, both(summed))


class Products:
    """Elementwise products in a step that are better done as contractions.

    An outer product is a product of arrays that were broadcast, and a sum of products
    is a sum over one. Neither the broadcast array nor the product need ever be there.
    """

    def __init__(self, step: Any):
        self.makers = {v: eqn for eqn in step.eqns for v in eqn.outvars}
        reads = [v for eqn in step.eqns for v in flat.variables(eqn.invars)]
        self.reads = Counter([*reads, *flat.variables(step.outvars)])
        self.sources: dict[Any, tuple[Any, list[int]]] = {}

    def follow(self, eqn: Any) -> None:
        """Note where the elements of a broadcast array come from."""
        source = eqn.invars[0]
        if eqn.primitive.name != "broadcast_in_dim" or isinstance(source, Literal):
            return
        base, strides = self._source(source)
        spread = [0] * len(eqn.params["shape"])
        for axis, stride in zip(
            eqn.params["broadcast_dimensions"], strides, strict=True
        ):
            spread[axis] = stride
        if any(spread):
            self.sources[eqn.outvars[0]] = base, spread

    def contraction(self, eqn: Any) -> Contraction | None:
        """An outer product or a sum of products, if an equation is one."""
        summed: Sequence[int] = ()
        if eqn.primitive.name == "reduce_sum":
            summed = eqn.params["axes"]
            eqn = self.makers.get(eqn.invars[0])
            if eqn is None or self.reads[eqn.outvars[0]] > 1:
                return None
        numbers = any(isinstance(a, Literal) for a in eqn.invars)
        if eqn.primitive.name != "mul" or numbers:
            return None
        (a, along_a), (b, along_b) = map(self._source, eqn.invars)
        shape = eqn.outvars[0].aval.shape
        none = [0] * len(shape)  # a number among arrays has no axes
        every = list(zip(shape, along_a or none, along_b or none, strict=True))
        outer = every and every[-1][1:] in ((0, 1), (1, 0))
        if not summed and not (outer and any(along_a) and any(along_b)):
            return None
        loops = [every[i] for i in range(len(shape)) if i not in summed]
        return Contraction(a, b, loops, [every[i] for i in summed])

    def _source(self, atom: Any) -> tuple[Any, list[int]]:
        """Where an array is, and the strides of its axes: none where it is repeated."""
        strides = [
            stride if size > 1 else 0 for size, stride in _along(atom.aval.shape)
        ]
        return self.sources.get(atom) or (atom, strides)


def _along(shape: Sequence[int]) -> list[tuple[int, int]]:
    """The size and the stride of each axis."""
    return [(size, math.prod(shape[i + 1 :])) for i, size in enumerate(shape)]


def _merged(loops: Loops) -> Loops:
    """Without axes of one element, and neighbours as one where they can be."""
    merged: Loops = []
    for size, sa, sb in loops:
        if size == 1:
            continue
        if merged:
            before, pa, pb = merged[-1]
            if pa == size * sa and pb == size * sb:
                merged[-1] = (before * size, sa, sb)
                continue
        merged.append((size, sa, sb))
    return merged
