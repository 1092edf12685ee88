"""When the variables of a step are read and made, and which may share a place."""

from typing import Any

from rnnjax.kernels.nodes import BLOCK, BY_ROWS, Node, Ref


class Lifetimes:
    """The moments at which a step whose nodes are done in this order reads and makes.

    >>> from rnnjax.kernels import lifetimes
    >>> lifetimes.Lifetimes([]).over("nothing reads it", 4, "nor makes this")
    True
    """

    def __init__(self, groups: list[list[Node]]):
        self.groups = groups
        self.makers: dict[Any, list[tuple[int, int]]] = {}
        self.reads: dict[Any, list[tuple[int, int, int, Ref]]] = {}
        for i, group in enumerate(groups):
            for j, node in enumerate(group):
                self.makers.setdefault(node.out.root, []).append((i, j))
                for k, r in enumerate(node.ins):
                    self.reads.setdefault(r.root, []).append((i, j, k, r))

    def over(self, old: Any, size: int, new: Any) -> bool:
        """Whether all reads of a variable are over when another one is made.

        They are in an earlier group, or are of the same elements in the same strip.
        What no node makes is made when all of them are done.
        """
        makers = self.makers.get(new, [(len(self.groups), 0)])
        i, j = makers[0]
        strips = len(makers) == 1 and self._in_strips(new, size, i, j)
        whole = Ref(old, 0, size)

        def first(at, n, k, r):
            if at != i:
                return at < i
            along = k < BY_ROWS.get(self.groups[at][n].op, k + 1)
            return strips and n <= j and r == whole and along

        return all(first(*read) for read in self.reads.get(old, ()))

    def _in_strips(self, new: Any, size: int, i: int, j: int) -> bool:
        """Whether elements are made where those of the same numbers are read."""
        if i == len(self.groups):
            return False
        node = self.groups[i][j]
        return node.kind == BLOCK and node.out == Ref(new, 0, size)
