"""Steps as flat programs: equations in a row, cut into what runs where.

A jaxpr is *flat* if none of its equations calls another one and it has no constants.
Three cuts are made here. What depends on the weights alone leaves the loop. What is
linear in tangents is parted from the values it needs. And of these values as few as
possible are kept for the way back: those that are cheap to make again are made again.
"""

import collections
import itertools
import math
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from rnnjax import programs

# The calls that stand for the program they call.
_CALLS = {"jit", "pjit", "closed_call", "core_call"}
_WITH_DERIVATIVES = {"custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr"}

# A scan within a step is unrolled if it has no more steps: layers, or a solver's.
_UNROLLED = 8

# Equations that cost a fraction of what it costs to write their result to memory and to
# read it again.
_CHEAP = {
    *("add", "add_any", "sub", "mul", "neg", "max", "min", "abs", "square", "select_n"),
    *("eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "integer_pow", "sign"),
    *("broadcast_in_dim", "reshape", "squeeze", "expand_dims", "slice", "split"),
    *("concatenate", "stack", "unstack", "transpose", "name", "copy"),
    *("convert_element_type", "stop_gradient", "tanh", "logistic", "exp"),
    "one_minus_square",
}

_COMPARISONS = {"eq", "ne", "lt", "le", "gt", "ge"}


def variables(atoms: Iterable[Any]) -> list[Any]:
    """Those operands of equations that are no literals.

    >>> from rnnjax.kernels import flat
    >>> flat.variables([])
    []
    """
    return [atom for atom in atoms if not isinstance(atom, Literal)]


def trace(
    fun: Callable, avals: Sequence[Any], inline_derivatives: bool = True
) -> tuple[Any, list[Any]]:
    """The flat jaxpr of a function of arrays, and its constants.

    The constants are the first inputs of the jaxpr. Functions with their own derivative
    stay whole if asked for, so that it still counts.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> jaxpr, _ = flat.trace(jax.nn.relu, [jnp.ones(2)])
    >>> [eqn.primitive.name for eqn in jaxpr.eqns]
    ['max']
    """
    closed = jax.make_jaxpr(fun)(*avals)
    consts, jaxpr = list(closed.consts), closed.jaxpr
    names = _CALLS | {"scan"}
    if inline_derivatives:
        names = names | _WITH_DERIVATIVES
    if not jaxpr.constvars and all(e.primitive.name not in names for e in jaxpr.eqns):
        return jaxpr, []
    given = [v.aval for v in (*jaxpr.constvars, *jaxpr.invars)]
    inlined = jax.make_jaxpr(lambda *operands: run(jaxpr, operands, names))(*given)
    consts, jaxpr = [*inlined.consts, *consts], inlined.jaxpr
    return cut(jaxpr, [*jaxpr.constvars, *jaxpr.invars], jaxpr.outvars), consts


def run(
    jaxpr: Any,
    operands: Sequence[Any],
    calls: Collection[str] = (),
    seen: Callable[[Any, list[Any], list[Any]], list[Any]] | None = None,
) -> list[Any]:
    """Run a jaxpr, its constants among the operands, and what it calls by these names.

    ``seen(eqn, operands, results)`` may put other results in place of each equation's.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> jaxpr, _ = flat.trace(jnp.sin, [jnp.ones(2)])
    >>> flat.run(jaxpr, [jnp.zeros(2)])
    [Array([0., 0.], dtype=float32)]
    """
    env = dict(zip((*jaxpr.constvars, *jaxpr.invars), operands, strict=True))

    def read(atom):
        return atom.val if isinstance(atom, Literal) else env[atom]

    for eqn in jaxpr.eqns:
        given = [read(atom) for atom in eqn.invars]
        results = _called(eqn, given, calls, seen)
        if results is None:
            results = programs.run_one(jaxpr, eqn, given)
        if seen is not None:
            results = seen(eqn, given, results)
        env.update(zip(eqn.outvars, results, strict=True))
    return [read(atom) for atom in jaxpr.outvars]


def _called(
    eqn: Any, given: list[Any], calls: Collection[str], seen: Any
) -> list[Any] | None:
    """What the program makes that an equation calls; nothing if the equation stays."""
    called = programs.inner(eqn) if eqn.primitive.name in calls else None
    if called is None:
        return None

    def once(operands):
        return run(called.jaxpr, [*called.consts, *operands], calls, seen)

    if eqn.primitive.name != "scan":
        return once(given)
    length = eqn.params["length"]
    if not 0 < length <= _UNROLLED:
        return None
    fixed, carry, xs = programs.scanned(eqn, called.jaxpr, given)
    made = [None] * length
    for i in reversed(range(length)) if eqn.params["reverse"] else range(length):
        out = once([*fixed, *carry, *(x[i] for x in xs)])
        carry, made[i] = out[: len(carry)], out[len(carry) :]
    return [*carry, *map(jnp.stack, zip(*made, strict=True))]


def cut(jaxpr: Any, invars: Sequence[Any], outvars: Sequence[Any]) -> Any:
    """The part of a flat jaxpr that makes some of its variables from others.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> jaxpr, _ = flat.trace(lambda x: jnp.sin(jnp.cos(x)), [jnp.ones(2)])
    >>> part = flat.cut(jaxpr, jaxpr.invars, jaxpr.eqns[0].outvars)
    >>> [eqn.primitive.name for eqn in part.eqns]
    ['cos']
    """
    given, wanted, eqns = set(invars), set(variables(outvars)), []
    for eqn in reversed(jaxpr.eqns):
        if any(v in wanted and v not in given for v in eqn.outvars):
            eqns.append(eqn)
            wanted.update(variables(eqn.invars))
    parts = {"constvars": [], "invars": list(invars), "outvars": list(outvars)}
    return jaxpr.replace(**parts, eqns=eqns[::-1])


def without_doubles(jaxpr: Any) -> Any:
    """A flat jaxpr that computes nothing twice.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> jaxpr, _ = flat.trace(lambda x: (1 - x) * (1 - x), [jnp.ones(2)])
    >>> [eqn.primitive.name for eqn in flat.without_doubles(jaxpr).eqns]
    ['sub', 'mul']
    """
    first: dict[Any, Any] = {}
    known: dict[Any, list[Any]] = {}
    eqns = []

    def renamed(atoms):
        return [a if isinstance(a, Literal) else first.get(a, a) for a in atoms]

    def alike(atom):
        if not isinstance(atom, Literal):
            return atom
        value = np.asarray(atom.val)
        return value.tobytes(), value.dtype, value.shape

    for eqn in jaxpr.eqns:
        eqn = eqn.replace(invars=renamed(eqn.invars))
        operands = tuple(map(alike, eqn.invars))
        if eqn.primitive.name in ("add", "add_any", "mul"):
            operands = frozenset(operands)
        key = eqn.primitive, str(sorted(eqn.params.items())), operands
        if key in known and not eqn.effects:
            first.update(zip(eqn.outvars, known[key], strict=True))
        else:
            known[key] = eqn.outvars
            eqns.append(eqn)
    return jaxpr.replace(eqns=eqns, outvars=renamed(jaxpr.outvars))


def without_transposes(jaxpr: Any) -> Any:
    """A flat jaxpr that turns no product round whose factors can change places.

    JAX writes the gradient of a factor so: a product, whose axes are then exchanged.
    One that something else reads too stays as it is.

    >>> import jax, jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> def outer(x, y):
    ...     made = jax.lax.dot_general(x, y, (((), ()), ((0,), (0,))))
    ...     return made.transpose(0, 2, 1)
    >>> jaxpr, _ = flat.trace(outer, [jnp.ones((2, 3)), jnp.ones((2, 4))])
    >>> [eqn.primitive.name for eqn in flat.without_transposes(jaxpr).eqns]
    ['dot_general']
    """
    makers = {v: eqn for eqn in jaxpr.eqns for v in eqn.outvars}
    read = [v for eqn in jaxpr.eqns for v in variables(eqn.invars)]
    reads = collections.Counter([*read, *variables(jaxpr.outvars)])
    eqns = []
    for eqn in jaxpr.eqns:
        once = eqn.primitive.name == "transpose" and reads[eqn.invars[0]] == 1
        made = makers.get(eqn.invars[0]) if once else None
        if made is not None and eqn.params["permutation"] == _exchanged(made):
            numbers = tuple(pair[::-1] for pair in made.params["dimension_numbers"])
            params = made.params | {"dimension_numbers": numbers}
            factors = {"invars": made.invars[::-1], "params": params}
            eqn = made.replace(outvars=eqn.outvars, **factors)
        eqns.append(eqn)
    jaxpr = jaxpr.replace(eqns=eqns)
    return cut(jaxpr, jaxpr.invars, jaxpr.outvars)


def _exchanged(eqn: Any) -> tuple[int, ...] | None:
    """What its axes are where the two factors of a product have changed places."""
    if eqn.primitive.name != "dot_general":
        return None
    (summed, _), (blocks, _) = eqn.params["dimension_numbers"]
    count, rank = len(blocks), eqn.outvars[0].aval.ndim
    middle = eqn.invars[0].aval.ndim - len(summed)
    return (*range(count), *range(middle, rank), *range(count, middle))


# Blocks of weights, times rows, that become products of their own.
_PRODUCTS = 32


def with_vectors(jaxpr: Any, count: int) -> Any:
    """A flat jaxpr whose products with weights are those of one vector and a matrix.

    The weights depend on the first ``count`` inputs alone. They may be blocks, or have
    several axes; what they are multiplied with may be several vectors.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> def heads(w, x):
    ...     return jnp.einsum("nij,ni->nj", w, x)
    >>> jaxpr, _ = flat.trace(heads, [jnp.ones((2, 3, 4)), jnp.ones((2, 3))])
    >>> products = [eqn for eqn in flat.with_vectors(jaxpr, 1).eqns
    ...             if eqn.primitive.name == "dot_general"]
    >>> [[v.aval.shape for v in eqn.invars] for eqn in products]
    [[(3,), (3, 4)], [(3,), (3, 4)]]
    """
    fixed = set(jaxpr.invars[:count])
    awkward = []
    for eqn in jaxpr.eqns:
        if all(v in fixed for v in variables(eqn.invars)):
            fixed.update(eqn.outvars)
        elif eqn.primitive.name == "dot_general":
            weights = [v in fixed for v in variables(eqn.invars)]
            ranks = sorted(v.aval.ndim for v in variables(eqn.invars))
            if sum(weights) == 1 and len(weights) == 2 and ranks != [1, 2]:
                awkward.append(eqn)
    if not awkward:
        return jaxpr

    def seen(eqn, given, results):
        if not any(eqn is one for one in awkward):
            return results
        product = _product_of_vectors(eqn, given, eqn.invars[0] in fixed)
        return results if product is None else [product]

    avals = [v.aval for v in jaxpr.invars]
    traced = jax.make_jaxpr(lambda *given: run(jaxpr, given, seen=seen))(*avals).jaxpr
    return trace(as_fun(cut(traced, traced.invars, traced.outvars)), avals, False)[0]


def _product_of_vectors(eqn: Any, given: Sequence[Any], weights_first: bool) -> Any:
    """The result of a product, as vectors times matrices, unless they are too many."""
    parts = list(zip(given, *eqn.params["dimension_numbers"], strict=True))
    (v, v_summed, v_blocks), (w, w_summed, w_blocks) = parts[:: 1 - 2 * weights_first]
    v_free = [i for i in range(v.ndim) if i not in (*v_summed, *v_blocks)]
    w_free = [i for i in range(w.ndim) if i not in (*w_summed, *w_blocks)]

    def sizes(a, axes):
        return [a.shape[i] for i in axes]

    blocks, rows = math.prod(sizes(v, v_blocks)), math.prod(sizes(v, v_free))
    if blocks * rows > _PRODUCTS:
        return None
    width = math.prod(sizes(w, w_free))
    vectors = v.transpose(*v_blocks, *v_free, *v_summed).reshape(blocks, rows, -1)
    matrices = w.transpose(*w_blocks, *w_summed, *w_free).reshape(blocks, -1, width)
    made = [vectors[i, j] @ matrices[i] for i in range(blocks) for j in range(rows)]
    shape = sizes(v, v_blocks), sizes(v, v_free), sizes(w, w_free)
    product = jnp.concatenate(made).reshape(*itertools.chain(*shape))
    if not weights_first:
        return product
    # The free axes of the first factor stand before those of the second.
    axes = range(len(v_blocks), len(v_blocks) + len(v_free))
    return jnp.moveaxis(product, axes, range(product.ndim - len(axes), product.ndim))


class Hoisted(NamedTuple):
    """A flat jaxpr without what depends on its first inputs alone."""

    before: Any  # makes the first inputs of `inside` from those of the whole
    inside: Any


def hoist(jaxpr: Any, count: int) -> Hoisted:
    """Part a flat jaxpr into what depends on its first ``count`` inputs, and the rest.

    What is made of numbers alone counts to it too, but for their broadcasts, which
    cost nothing where they are.

    >>> import jax.numpy as jnp
    >>> from rnnjax.kernels import flat
    >>> def step(w, x):
    ...     return x * jnp.exp(w)
    >>> jaxpr, _ = flat.trace(step, [jnp.ones(2), jnp.ones(2)])
    >>> [len(part.eqns) for part in flat.hoist(jaxpr, 1)]
    [1, 1]
    """
    fixed = set(jaxpr.invars[:count])
    made, numbers = set(), set()
    for eqn in jaxpr.eqns:
        reads = variables(eqn.invars)
        floating = eqn.outvars[0].aval.dtype == "float32"
        if not reads and floating and eqn.primitive.name == "broadcast_in_dim":
            numbers.update(eqn.outvars)
        elif all(v in fixed or v in numbers for v in reads):
            made.update(eqn.outvars)
            fixed.update(eqn.outvars)
    used = [
        v
        for eqn in jaxpr.eqns
        if not made.issuperset(eqn.outvars)
        for v in variables(eqn.invars)
    ]
    used += variables(jaxpr.outvars)
    needed = [v for v in dict.fromkeys(used) if v in fixed]
    return Hoisted(
        cut(jaxpr, jaxpr.invars[:count], needed),
        cut(jaxpr, [*needed, *jaxpr.invars[count:]], jaxpr.outvars),
    )


class Linear(NamedTuple):
    """A flat jaxpr whose equations are linear in some inputs, and what it needs."""

    jaxpr: Any  # from the free inputs, the kept values and the linear inputs
    kept: list[Any]  # variables of the whole that are to be saved


def linear_part(
    jaxpr: Any,
    linear: Sequence[Any],
    outvars: Sequence[Any],
    free: Sequence[Any],
    saved: Sequence[Any],
) -> Linear:
    """Cut out what depends on the ``linear`` inputs, with the least to be kept for it.

    Args:
      jaxpr: of values and tangents.
      linear: its inputs that are tangents.
      outvars: its results that are.
      free: variables that are there anyway and lead the inputs of the part.
      saved: variables that are kept anyway.
    """
    moved, needed = set(linear), []
    for eqn in jaxpr.eqns:
        if any(v in moved for v in variables(eqn.invars)):
            moved.update(eqn.outvars)
            needed += [v for v in variables(eqn.invars) if v not in moved]
    needed += [v for v in variables(outvars) if v not in moved]
    values = [e for e in jaxpr.eqns if not any(v in moved for v in e.outvars)]
    kept = _least_kept(values, list(dict.fromkeys(needed)), {*free, *saved})
    kept = [v for v in kept if v not in set(free)]
    return Linear(cut(jaxpr, [*free, *kept, *linear], outvars), kept)


def _least_kept(
    eqns: Sequence[Any], needed: Sequence[Any], there: set[Any]
) -> list[Any]:
    """The fewest numbers from which cheap equations make all that is needed.

    This is a minimum cut: values flow from where they cannot be made again cheaply to
    where they are needed, each as wide as its array.
    """
    source, sink = "source", "sink"
    room: dict[Any, dict[Any, float]] = collections.defaultdict(dict)

    def edge(a, b, width):
        room[a][b] = width
        room[b].setdefault(a, 0)

    def node(v):
        if (v, "in") not in room:
            edge((v, "in"), (v, "out"), 0 if v in there else v.aval.size)
        return v

    makers = {v: eqn for eqn in eqns for v in eqn.outvars}
    waiting, found = list(needed), dict.fromkeys(needed)
    while waiting:
        v = node(waiting.pop())
        eqn = makers.get(v)
        if eqn is None or not _is_cheap(eqn, makers):
            edge(source, (v, "in"), float("inf"))
            continue
        for read in variables(eqn.invars):
            node(read)
            edge((read, "out"), (v, "in"), float("inf"))
            if read not in found:
                found[read] = None
                waiting.append(read)
    for v in needed:
        edge((v, "out"), sink, float("inf"))

    while path := _path(room, source, sink):
        width = min(room[a][b] for a, b in path)
        for a, b in path:
            room[a][b] -= width
            room[b][a] += width
    # The cut next to what is needed: it leaves the least to be made again.
    ends, waiting = {sink}, [sink]
    while waiting:
        b = waiting.pop()
        for a in room[b]:
            if a not in ends and room[a][b] > 0:
                ends.add(a)
                waiting.append(a)
    return [v for v in found if (v, "out") in ends and (v, "in") not in ends]


def _is_cheap(eqn: Any, makers: dict[Any, Any]) -> bool:
    """Whether the results of an equation had better be made again than kept.

    Comparisons of two values had not: either may be rounded otherwise the second time,
    and then the largest of several, say, is none of them.
    """
    compared = eqn.primitive.name in _COMPARISONS

    def number(atom):
        maker = makers.get(atom)
        return maker is not None and not variables(maker.invars)

    values = {v for v in variables(eqn.invars) if not number(v)}
    return eqn.primitive.name in _CHEAP and not (compared and len(values) > 1)


def _path(room: Any, source: Any, sink: Any) -> list[Any]:
    """The shortest way that has room, as edges."""
    came, waiting = {source: source}, collections.deque([source])
    while waiting:
        a = waiting.popleft()
        for b, width in room[a].items():
            if width > 0 and b not in came:
                came[b] = a
                waiting.append(b)
    if sink not in came:
        return []
    path, b = [], sink
    while b != source:
        path.append((came[b], b))
        b = came[b]
    return path


def as_fun(jaxpr: Any) -> Callable[..., list[Any]]:
    """A flat jaxpr as a function of its inputs."""
    return jaxpr_as_fun(ClosedJaxpr(jaxpr, ()))
