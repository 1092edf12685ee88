"""What the native engine does at once: several nodes that become one.

Sums of products and a bias are one product, whose sum stays in registers. In a block a
multiplication and the sum that reads it are one operation.
"""

from collections import Counter
from collections.abc import Iterable, Set
from typing import Any

from rnnjax.kernels.nodes import BLOCK, PRODUCT, Node, Term, by_vectors


def _reads(nodes: Iterable[Node]) -> Counter:
    """How often each variable is read."""
    return Counter(r.root for node in nodes for r in node.ins)


def needed(nodes: list[Node], results: Set[Any]) -> list[Node]:
    """Without nodes that make what nothing reads."""
    read, left = set(results), []
    for node in reversed(nodes):
        if node.out.root in read:
            read.update(r.root for r in node.ins)
            left.append(node)
    return left[::-1]


def joined(nodes: list[Node], results: Set[Any]) -> list[Node]:
    """Sums and differences of products, and of one and what is there, as one product.

    Args:
      nodes: of a step.
      results: the variables that are read by more than nodes.
    """
    reads = _reads(nodes)
    made: dict[Any, Node] = {}
    left = []

    def part(r):
        """The product that an operand is, if nothing else reads it."""
        product = made.get(r.root)
        alone = reads[r.root] == 1 and r.root not in results
        return product if product and alone and product.out == r else None

    for node in nodes:
        if node.kind == PRODUCT:
            (moving, weights), sizes = node.ins, node.details
            term = Term(moving, weights, *sizes)
            node = node._replace(ins=(), details=(None, (term,)))
        elif node.op in ("add", "sub") and by_vectors(node.out, _size(node)):
            parts = [part(r) for r in node.ins]
            found = _sum(node, parts)
            if found is not None:
                node, taken = found
                left = [n for n in left if all(n is not one for one in taken)]
        if node.kind == PRODUCT:
            made[node.out.root] = node
        left.append(node)
    return [_with_reads(_by_elements(node)) for node in left]


def _size(node: Node) -> int:
    return node.out.root.aval.size


def _sum(node: Node, parts: list[Node | None]) -> tuple[Node, list[Node]] | None:
    """A sum, or a difference, as one product, and the products that it is made of."""
    one, other = (p and p.details for p in parts)
    if node.op == "sub":
        if other is None or other[0] is not None:
            return None
        other = None, tuple(term._replace(negative=True) for term in other[1])
    details = [d for d in (one, other) if d is not None]
    starts = [d[0] for d in details if d[0] is not None]
    if len(details) == 2 and len(starts) < 2:
        start = starts[0] if starts else None
        terms, taken = details[0][1] + details[1][1], parts
    elif details and details[-1][0] is None:
        # What is no product, or starts with something else, is what this starts with.
        at = 1 if details[-1] is other else 0
        start, terms, taken = node.ins[1 - at], details[-1][1], [parts[at]]
    else:
        return None
    if start is not None and start.splat:
        return None
    whole = Node(PRODUCT, "sum", node.out, (), (start, terms))
    return whole, [p for p in taken if p is not None]


def _by_elements(node: Node) -> Node:
    """A product of one number and one row of weights is one for each element."""
    if node.kind != PRODUCT or len(node.details[1]) > 1:
        return node
    start, (term,) = node.details
    if term.rows > 1 or (term.negative and start is None):
        return node
    x = term.moving._replace(size=node.out.size, splat=True)
    if start is None:
        return Node(BLOCK, "mul", node.out, (x, term.weights))
    op = "subtract_product" if term.negative else "multiply_add"
    return Node(BLOCK, op, node.out, (x, term.weights, start))


def _with_reads(node: Node) -> Node:
    if node.kind != PRODUCT:
        return node
    start, terms = node.details
    ins = [t.moving for t in terms] + ([] if start is None else [start])
    return node._replace(ins=tuple(ins))


def fused(groups: list[list[Node]], results: Set[Any]) -> list[list[Node]]:
    """Blocks with fewer operations.

    They are ``a - b`` for ``a + (-b)``; repeated rows and outer products that are not
    made before they are multiplied or added; what gates keep of a matrix and what is
    added to it; ``a b + c``; and ``a b + c d``.
    """
    reads = _reads(node for group in groups for node in group)
    single = Counter(node.out.root for group in groups for node in group)
    once = {v for v in reads if reads[v] == single[v] == 1} - results
    for fuse in (_difference, _with_rows, _gated, _with_product, _of_products):
        groups = [_within(group, once, fuse) for group in groups]
    return groups


def _within(group: list[Node], once: Set[Any], fuse: Any) -> list[Node]:
    """A block in which nodes have become one with the last maker of an operand."""
    place = {node.out: i for i, node in enumerate(group)}
    left: list[Node | None] = list(group)
    for i, node in enumerate(group):
        makers = {
            place[r]: at
            for at, r in enumerate(node.ins)
            if r in place and r.root in once
        }
        for j in sorted(makers, reverse=True):
            made, at = left[j], makers[j]
            others = (*node.ins[:at], *node.ins[at + 1 :])
            whole = fuse(node, made, at, others) if made else None
            if whole is not None:
                left[i], left[j] = whole, None
                break
    return [node for node in left if node is not None]


def _difference(node: Node, made: Node, at: int, others: tuple) -> Node | None:
    if node.op != "add" or made.op != "neg":
        return None
    return node._replace(op="sub", ins=(*others, *made.ins))


_ROWS = {
    ("mul", "repeat"): "multiply_repeated",
    ("add", "outer"): "add_outer",
    ("add", "multiply_repeated"): "multiply_add_repeated",
}


def _with_rows(node: Node, made: Node, at: int, others: tuple) -> Node | None:
    name = _ROWS.get((node.op, made.op))
    if name == "multiply_add_repeated":
        x, *repeated = made.ins
        return node._replace(op=name, ins=(x, *others, *repeated))
    return node._replace(op=name, ins=(*others, *made.ins)) if name else None


def _gated(node: Node, made: Node, at: int, others: tuple) -> Node | None:
    """An outer product that is added to what gates keep of a matrix.

    They are of its elements, of its rows, or one for each matrix.
    """
    if (node.op, made.op, at) == ("add_outer", "mul", 0):
        return node._replace(op="gated_add_outer", ins=(*made.ins, *others))
    if (node.op, made.op, at) == ("add_outer", "multiply_repeated", 0):
        kept, product = made.ins, others
    elif (node.op, made.op, at) == ("multiply_add_repeated", "outer", 1):
        kept, product = others, made.ins
    else:
        return None
    (x, gate, repeated, _), (*factors, columns, rows) = kept, product
    if repeated == columns:
        name = "rows_gated_add_outer"
    elif repeated.root == columns.root * rows.root:
        name = "matrices_gated_add_outer"
    else:
        return None
    return node._replace(op=name, ins=(x, gate, *factors, columns, rows))


def _with_product(node: Node, made: Node, at: int, others: tuple) -> Node | None:
    if made.op != "mul" or node.op not in ("add", "sub"):
        return None
    names = {"add": ("multiply_add",) * 2}
    names["sub"] = ("multiply_subtract", "subtract_product")
    return node._replace(op=names[node.op][at], ins=(*made.ins, *others))


def _of_products(node: Node, made: Node, at: int, others: tuple) -> Node | None:
    """The sum or the difference of two products, of which one was made before."""
    if made.op != "mul" or at != 2:
        return None
    pairs = {
        "multiply_add": ("add_products", (*others, *made.ins)),
        "multiply_subtract": ("subtract_products", (*others, *made.ins)),
        "subtract_product": ("subtract_products", (*made.ins, *others)),
    }
    if node.op not in pairs:
        return None
    op, ins = pairs[node.op]
    return node._replace(op=op, ins=ins)
