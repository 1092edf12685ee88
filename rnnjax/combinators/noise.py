"""Noise in a recurrence, turned on by a key: dropout, zoneout, DropConnect.

Without a key all of them are deterministic: there is no training flag. What is drawn
for a whole sequence is drawn outside the loop, and each example of `rnnjax.unroll` has
its own key and so its own masks. Segments packed into one sequence by resets share its
masks.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from rnnjax import checks, forms, guards, signals
from rnnjax.cell import Cell, Keys, constructor
from rnnjax.combinators.memoryless import time_distributed
from rnnjax.combinators.stepping import draws, walk
from rnnjax.observation import observe
from rnnjax.signals import as_keys


@constructor
def dropout(rate: float, *, per: str = "step") -> Cell:
    """Given a key, set a share of the features to zero and scale up the others.

    It goes into a `stack`, without params and with an empty carry. Without a key, so in
    ``step`` and at evaluation, it is the identity.

    Args:
      rate: the share that is dropped, in [0, 1). TensorFlow's ``keep_prob`` is one
        minus it.
      per: ``"step"`` draws a mask for every step, ``"sequence"`` one for all of them
        (variational dropout). To keep it over chunks pass `rnnjax.Keys`.

    Reference: Srivastava et al. 2014, Dropout; between layers of recurrent networks:
    Zaremba, Sutskever, Vinyals 2014, arXiv:1409.2329; one mask per sequence: Gal,
    Ghahramani 2016, arXiv:1512.05287.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.dropout(0.5, per="sequence")
    >>> _, ys = cell.unroll((), (), jnp.ones((100, 8)), key=jax.random.key(0))
    >>> sorted(set(ys.ravel().tolist())), bool((ys == ys[0]).all())
    ([0.0, 2.0], True)
    """
    checks.rate("rate", rate)
    _known(per)
    identity = time_distributed(lambda key: (), lambda params, x: x)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        carry, ys = identity.unroll(params, carry, xs, mask=mask, reset=reset, key=key)
        return carry, ys if key is None else _drop(key, rate, per, ys)

    return Cell(identity.init, identity.initial_carry, identity.step, unroll)


@constructor
def with_dropout(
    cell: Cell,
    *,
    inputs: float = 0.0,
    state: Any = 0.0,
    outputs: float = 0.0,
    per: str = "step",
) -> Cell:
    r"""Add dropout around a cell; its params and carry stay as they are.

    .. math::

        (carry_t, \tilde y_t) &= cell(m^s_t \odot carry_{t-1},\; m^x_t \odot x_t) \\
        y_t &= m^y_t \odot \tilde y_t

    Each mask holds :math:`1 / (1 - rate)` or, with probability ``rate``, zero. The
    state is dropped where it is read: the carry that is returned is whole.

    Args:
      cell: the cell. Its own random numbers are drawn too.
      inputs: the rate for ``x``.
      state: the rate for the carry. A number means every floating leaf but memories
        named ``c``, as in TensorFlow. A tuple has a rate for each leaf, for example
        ``(0.1, 0.5)`` for the ``(c, h)`` of an LSTM.
      outputs: the rate for ``y``.
      per: masks for every ``"step"``, or one per ``"sequence"``. TensorFlow's
        ``variational_recurrent`` shares the latter over the batch, too; here each
        example has its own.

    Raises:
      ValueError, TypeError: for a rate outside of [0, 1), rates that do not fit the
        carry, and inputs that are not floating.

    Reference: Gal, Ghahramani 2016, arXiv:1512.05287; every step: Semeniuta, Severyn,
    Barth 2016, arXiv:1603.05118.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.with_dropout(rnnjax.gru(3, 4), state=0.3, per="sequence")
    >>> params = cell.init(jax.random.key(0))
    >>> h = cell.initial_carry(params)
    >>> _, noisy = cell.unroll(params, h, jnp.ones((7, 3)), key=jax.random.key(1))
    >>> _, ys = cell.unroll(params, h, jnp.ones((7, 3)))
    >>> bool(jnp.allclose(noisy[0], ys[0], atol=1e-6)), bool(jnp.allclose(noisy, ys))
    (True, False)
    """
    checks.cell("cell", cell)
    checks.rate("inputs", inputs)
    checks.rate("outputs", outputs)
    for rate in _several("state", state):
        checks.rate("state", rate)
    _known(per)

    def advance(step, params, carry, x):
        x, masks = x
        return step(params, jax.tree.map(jnp.multiply, carry, masks), x)

    def state_masks(key, carry, time):
        rates = _rates("state", state, carry)
        if isinstance(state, int | float):

            def kept(path, rate, a):
                return 0.0 if _field(path) == "c" or not _floating(a) else rate

            rates = jax.tree_util.tree_map_with_path(kept, rates, carry)

        def ones(a):
            return jnp.ones((time, *jnp.shape(a)), a.dtype)

        return _drop(key, rates, per, jax.tree.map(ones, carry))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        if key is None:
            return cell.unroll(params, carry, xs, mask=mask, reset=reset)
        start = cell.initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        keys, unroll = signals.split_key(key, 4), cell.unroll
        xs = _drop(keys[0], inputs, per, xs)
        if any(jax.tree.leaves(state)):
            xs = (xs, state_masks(keys[1], start, checks.time_steps(xs)))
            unroll = functools.partial(walk, cell, advance)
        carry, ys = unroll(params, carry, xs, mask=mask, reset=reset, key=keys[3])
        return carry, _drop(keys[2], outputs, per, ys)

    return Cell(cell.init, cell.initial_carry, cell.step, unroll)


@constructor
def zoneout(cell: Cell, rate: Any) -> Cell:
    r"""At each step, keep a share of the state's entries as they were.

    .. math:: carry_t = m_t \odot carry_{t-1} + (1 - m_t) \odot cell(carry_{t-1}, x_t)

    With a key each entry of :math:`m_t` is one with probability ``rate``; without one
    it is ``rate`` itself, its expectation. An output that is part of the carry, as in
    `lstm` and `gru`, is the one after zoneout. In `rnnjax.trace` the state after it is
    ``"carry"``, or ``"carry.h"`` and so on; the names of the cell are those of what the
    cell computes, before zoneout.

    Args:
      cell: the cell; it draws no random numbers of its own.
      rate: a number in [0, 1] for all of the carry, or a tuple with one for each leaf,
        for example ``(0.5, 0.05)`` for the ``(c, h)`` of an LSTM. Leaves that are not
        floating change as usual.

    Raises:
      ValueError, TypeError: for rates outside of [0, 1] or that do not fit the carry,
        and, from ``unroll`` with a key, for a cell that draws random numbers.

    Reference: Krueger et al. 2017, arXiv:1606.01305.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.zoneout(rnnjax.lstm(3, 4), (0.5, 0.05))
    >>> params = cell.init(jax.random.key(0))
    >>> carry, ys = cell.unroll(
    ...     params, cell.initial_carry(params), jnp.ones((7, 3)), key=jax.random.key(1))
    >>> bool((ys[-1] == carry.h).all())
    True
    """
    checks.cell("cell", cell)
    for r in _several("rate", rate):
        if not 0 <= checks.number("rate", r, example=0.1) <= 1:
            raise ValueError(
                f"rate is {rate!r}; expected probabilities in [0, 1]: the share of the "
                "state that is kept from the step before. Write rate=0.1."
            )

    def advance(step, params, carry, x):
        x, keep = x
        after, y = step(params, carry, x)

        def mix(keep, old, new):
            if not _floating(new):
                return new
            if keep.dtype == jnp.bool_:
                return jnp.where(keep, old, new)
            keep = keep.astype(new.dtype)
            return keep * old + (1 - keep) * new

        mixed = jax.tree.map(mix, keep, carry, after)
        for path, leaf in jax.tree_util.tree_leaves_with_path({"carry": mixed}):
            name = jax.tree_util.keystr(path, simple=True, separator=".")
            observe(**{name: leaf})
        # A cell hands out its state as the very same array, which tells that it does.
        pairs = zip(jax.tree.leaves(after), jax.tree.leaves(mixed), strict=True)
        replaced = {id(old): new for old, new in pairs}
        return mixed, jax.tree.map(lambda a: replaced.get(id(a), a), y)

    def rates(carry):
        return jax.tree.map(jnp.asarray, _rates("rate", rate, carry))

    def step(params, carry, x):
        return advance(cell.step, params, carry, (x, rates(carry)))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        time, start = checks.time_steps(xs), cell.initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        if key is None:
            keep = jax.tree.map(lambda r: jnp.full(time, r), rates(start))
        else:
            keys = _split_tree(as_keys(key).step, start)

            def draw(key, rate, a):
                return jax.random.bernoulli(key, rate, (time, *jnp.shape(a)))

            keep = jax.tree.map(draw, keys, rates(start), start)
            if draws(cell, advance, params, carry, (xs, keep), key):
                raise ValueError(
                    f"zoneout({cell}) got a key, and {cell} draws random numbers of "
                    "its own, which zoneout would lose. Put zoneout next to the cell "
                    "and the others around it: with_dropout(zoneout(cell, rate))."
                )
        xs = (xs, keep)
        return walk(cell, advance, params, carry, xs, mask=mask, reset=reset)

    return Cell(cell.init, cell.initial_carry, step, unroll)


@constructor
def drop_connect(
    cell: Cell, rate: float, *, names: tuple[str, ...] = ("w_hh",)
) -> Cell:
    """Drop recurrent weights instead of states: one mask for a whole sequence.

    Weights that stay are scaled by ``1 / (1 - rate)``. With a key for each example, as
    in `rnnjax.unroll`, each has weights of its own and the batch is no longer one
    product; where memory or speed matter share one mask over the batch, as AWD-LSTM
    does: ``jax.vmap(lambda c, x: cell.unroll(params, c, x, key=key))(carry, xs)``.

    Args:
      cell: the cell. Its own random numbers are drawn too.
      rate: the share of the weights that is dropped, in [0, 1).
      names: the fields of the params that are dropped, in every layer of a stack.

    Raises:
      ValueError: for a name that no params have.

    Reference: Wan et al. 2013, Regularization of neural networks using DropConnect;
    on recurrent weights: Merity, Keskar, Socher 2018, arXiv:1708.02182.

    >>> import jax, jax.numpy as jnp, rnnjax
    >>> cell = rnnjax.drop_connect(rnnjax.lstm(3, 4), 0.5)
    >>> params = cell.init(jax.random.key(0))
    >>> _, ys = cell.unroll(
    ...     params, cell.initial_carry(params), jnp.ones((7, 3)), key=jax.random.key(1))
    >>> ys.shape
    (7, 4)
    """
    checks.cell("cell", cell)
    checks.rate("rate", rate)
    if not isinstance(names, tuple) or not all(isinstance(n, str) for n in names):
        raise TypeError(
            f"names is {forms.outline(names)}; expected a tuple of names of params. "
            "Write names=('w_hh',), with the comma."
        )
    _there(names, cell)

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None):
        if key is None:
            return cell.unroll(params, carry, xs, mask=mask, reset=reset)
        own, inner = signals.split_key(checks.noise_key(key), 2)
        dropped = jax.tree_util.tree_map_with_path(
            lambda path, k, a: (
                _scaled(k, rate, a, a.shape) if _field(path) in names else a
            ),
            _split_tree(as_keys(own).sequence, params),
            params,
        )
        return cell.unroll(dropped, carry, xs, mask=mask, reset=reset, key=inner)

    return Cell(cell.init, cell.initial_carry, cell.step, unroll)


def _there(names: tuple[str, ...], cell: Cell) -> None:
    """Refuse names that no params of a cell have; one of them in some layer will do."""
    made = guards.made(cell.init)
    if made is None:
        return
    leaves = jax.tree_util.tree_leaves_with_path(made)
    fields = {_field(path) for path, _ in leaves}
    wrong = [name for name in names if name not in fields]
    if wrong or not names:
        raise ValueError(
            f"names is {names!r}, but the params of {cell} have the fields "
            f"{sorted(map(str, fields))}. Write names=(...) with those that hold "
            "the recurrent weights."
        )


def _several(name: str, rates: Any) -> tuple[Any, ...]:
    """One rate, or a tuple with one for each leaf."""
    if not isinstance(rates, tuple):
        return (rates,)
    if not rates:
        raise ValueError(
            f"{name} is (); expected a number, or one for each leaf of the carry. "
            f"Write {name}=0.1."
        )
    return rates


def _split_tree(key: Array, tree: Any) -> Any:
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(structure, [keys[i] for i in range(len(leaves))])


def _drop(key: Array | Keys, rates: Any, per: str, xs: Any) -> Any:
    """Scale or zero the entries of ``xs: (t, ...)``, with one rate or one per leaf."""
    keys = as_keys(key)
    if isinstance(rates, int | float):
        rates = _rates("rate", rates, xs)

    def drop(key, rate, a):
        shape = a.shape if per == "step" else (1, *a.shape[1:])
        return _scaled(key, rate, a, shape)

    one_each = _split_tree(keys.step if per == "step" else keys.sequence, xs)
    return jax.tree.map(drop, one_each, rates, xs)


def _scaled(key: Array, rate: float, a: Any, shape: tuple[int, ...]) -> Any:
    if rate == 0:
        return a
    if not _floating(a):
        raise TypeError(
            f"dropout got an array of {jnp.result_type(a)}; expected a floating dtype. "
            "Put it after rnnjax.embedding, where tokens have become features."
        )
    return jnp.where(jax.random.bernoulli(key, 1 - rate, shape), a / (1 - rate), 0)


def _rates(name: str, rate: Any, tree: Any) -> Any:
    """A rate for each leaf: one number for all, or as many as there are leaves."""
    structure = jax.tree.structure(tree)
    rates = jax.tree.leaves(rate)
    if isinstance(rate, int | float):
        rates = rates * structure.num_leaves
    if len(rates) != structure.num_leaves:
        raise ValueError(
            f"{name} is {rate!r}, which has {len(rates)} rates for the "
            f"{structure.num_leaves} leaves of {structure}; expected one number, or "
            f"one for each leaf in their order. Write {name}=0.1."
        )
    return jax.tree.unflatten(structure, rates)


def _known(per: str) -> None:
    write = "per='step' for a new mask at each step, per='sequence' for one mask"
    checks.choice("per", per, ("step", "sequence"), write)


def _floating(a: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(a), jnp.floating)


def _field(path: tuple[Any, ...]) -> str | None:
    """The name of the field of a NamedTuple, or the key, in which a leaf lies."""
    return (
        None if not path else getattr(path[-1], "name", getattr(path[-1], "key", None))
    )
