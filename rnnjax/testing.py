"""The contract: seven laws that make a cell a cell, for anyone's cells."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from rnnjax.cell import Cell, NoStepError

_TOLERANCE = {"float64": 1e-9, "float32": 2e-4, "bfloat16": 0.1, "float16": 0.02}
_TIME = 8
_VALID = np.array([True, False, False, True, True, False, True, False])
_START = np.array([True, False, False, True, False, False, False, False])


def check_cell(cell: Cell, x: Any, *, dtype: Any = None) -> None:
    """Assert that a cell, any cell, keeps the laws that the library promises.

    1. ``unroll`` equals `jax.lax.scan` of ``step``: values, and gradients for params,
       carry and inputs, with every combination of mask and reset;
    2. chunks compose: two unrolls with the carry handed over are one;
    3. padding is inert, NaN and infinity included, in values and gradients: masking
       steps equals leaving them out, and masking all of them returns the carry;
    4. a reset equals separate sequences;
    5. the gradient of a `jax.vmap` is the sum of the gradients of its examples;
    6. the carry keeps its structure, shapes and dtypes, in float32, bfloat16 and
       (where ``jax_enable_x64`` is on) float64 params;
    7. one trace, however often it is called, and no tracer leaks.

    Laws 1 and 2 are about cells with a ``step``; cells that need the whole sequence
    raise `NoStepError` there and are excused.

    Args:
      cell: the cell.
      x: an example of its input at one time step. Sequences of its shapes are drawn at
        random, integers between 0 and it.
      dtype: cast floating params and inputs to it first, for example ``jnp.bfloat16``.

    Raises:
      AssertionError: naming the law, what differed, by how much and what was allowed.

    >>> import jax.numpy as jnp, rnnjax
    >>> rnnjax.testing.check_cell(rnnjax.bidirectional(rnnjax.gru(3, 4)), jnp.ones(3))
    """
    check = _Checks(cell, x, dtype)
    if check.causal:
        check.unroll_is_scan_of_step()
        check.chunks_compose()
    check.padding_is_inert()
    check.resets_are_separate_sequences()
    check.gradients_add_up()
    check.carry_keeps_its_form()
    check.one_trace()


class _Checks:
    """The data that the laws share; compiling it once is most of their cost."""

    def __init__(self, cell: Cell, x: Any, dtype: Any):
        self.cell = cell
        keys = jax.random.split(jax.random.key(20140103), 5)
        self.params = _cast(_perturbed(keys[0], cell.init(keys[1])), dtype)
        self.x = _cast(x, dtype)
        self.start = cell.initial_carry(self.params)
        self.carry = _perturbed(keys[2], self.start)
        self.xs = _draw(keys[3], self.x, (_TIME,))
        run = jax.eval_shape(self._run(cell.unroll), *self.given)
        self.weights = _draw(keys[4], run)
        floats = [a.dtype for a in jax.tree.leaves(run) if _is_float(a)]
        self.tolerance = max([_TOLERANCE[f.name] for f in floats], default=0.0)
        # Each function is compiled once for each length and set of signals.
        self.unroll = jax.jit(_pulled_back(self._run(cell.unroll)))

    @property
    def given(self):
        return self.params, self.carry, self.xs

    @property
    def causal(self) -> bool:
        try:
            jax.eval_shape(self.cell.step, self.params, self.carry, self.x)
        except NoStepError:
            return False
        return True

    def _run(self, unroll: Callable) -> Callable:
        def run(params, carry, xs, mask=None, reset=None):
            return unroll(params, carry, xs, mask=mask, reset=reset)

        return run

    def unroll_is_scan_of_step(self):
        law = "1 (unroll equals lax.scan of step)"
        reference = jax.jit(_pulled_back(self._scan_of_step))
        for mask in (None, _VALID):
            for reset in (None, _START):
                valid = np.ones(_TIME, bool) if mask is None else mask
                where = np.zeros(_TIME, bool) if reset is None else reset
                self.compare(
                    f"{law}, mask={mask is not None}, reset={reset is not None}",
                    self.unroll(self.weights, *self.given, mask, reset),
                    reference(self.weights, *self.given, valid, where),
                )

    def _scan_of_step(self, params, carry, xs, mask, reset):
        """Written from the words of the contract, apart from the library's own way."""
        cell = self.cell

        def step(carry, inputs):
            x, valid, restart = inputs
            x = jax.tree.map(lambda a: jnp.where(valid, a, jnp.zeros_like(a)), x)
            begin = _where(restart, cell.initial_carry(params), carry)
            after, y = cell.step(params, begin, x)
            return _where(valid, after, carry), _where(
                valid, y, jax.tree.map(jnp.zeros_like, y)
            )

        return lax.scan(step, carry, (xs, mask, reset))

    def chunks_compose(self):
        law = "2 (chunks compose)"
        half = _TIME // 2

        def chunked(params, carry, xs, mask=None, reset=None):
            done = []
            for part in (slice(None, half), slice(half, None)):
                given = [_take(a, part) for a in (xs, mask, reset)]
                carry, ys = self.cell.unroll(
                    params, carry, given[0], mask=given[1], reset=given[2]
                )
                done.append(ys)
            return carry, jax.tree.map(lambda a, b: jnp.concatenate([a, b]), *done)

        pulled = jax.jit(_pulled_back(chunked))
        for mask, reset in ((None, None), (_VALID, _START)):
            self.compare(
                f"{law}, mask and reset {mask is not None}",
                pulled(self.weights, *self.given, mask, reset),
                self.unroll(self.weights, *self.given, mask, reset),
            )

    def padding_is_inert(self):
        law = "3 (padding is inert)"
        weights = (self.weights[0], _take(self.weights[1], _VALID))
        out, grads = self.unroll(
            weights, self.params, self.carry, _take(self.xs, _VALID)
        )
        expected = (
            (out[0], _spread(out[1])),
            (*grads[:2], _spread(grads[2])),
        )
        for filler in (np.nan, np.inf):
            xs = jax.tree.map(lambda a, fill=filler: _pollute(a, fill), self.xs)
            given = (self.weights, self.params, self.carry, xs, _VALID)
            self.compare(f"{law}, filled with {filler}", self.unroll(*given), expected)
        nothing = np.zeros(_TIME, bool)
        out, grads = self.unroll(self.weights, *self.given, nothing)
        zero = jax.tree.map(jnp.zeros_like, (out[1], grads[0], grads[2]))
        self.compare(
            f"{law}, a sequence of length 0",
            (out, grads),
            ((self.carry, zero[0]), (zero[1], _floating(self.weights[0]), zero[2])),
        )

    def resets_are_separate_sequences(self):
        law = "4 (a reset equals separate sequences)"
        half = _TIME // 2
        where = np.arange(_TIME) % half == 0

        def separate(params, xs):
            halves = jax.tree.map(lambda a: a.reshape(2, half, *a.shape[1:]), xs)
            start = self.cell.initial_carry(params)
            _, ys = jax.vmap(self.cell.unroll, (None, None, 0))(params, start, halves)
            return jax.tree.map(lambda a: a.reshape(_TIME, *a.shape[2:]), ys)

        def packed(params, xs, padded):
            start = self.cell.initial_carry(params)
            if not padded:
                return self.cell.unroll(params, start, xs, reset=where)[1]
            # Two steps of padding behind each segment.
            index = np.r_[:half, -1, -1, half:_TIME, -1, -1]
            wide = jax.tree.map(lambda a: a[index], xs)
            ys = self.cell.unroll(
                params, start, wide, mask=index >= 0, reset=index % half == 0
            )[1]
            return jax.tree.map(lambda a: a[index >= 0], ys)

        expected = jax.jit(_pulled_back(separate))(
            self.weights[1], self.params, self.xs
        )
        for padded in (False, True):
            found = jax.jit(_pulled_back(lambda p, xs, w=padded: packed(p, xs, w)))
            self.compare(
                f"{law}, padding between them {padded}",
                found(self.weights[1], self.params, self.xs),
                expected,
            )

    def gradients_add_up(self):
        law = "5 (the gradient of a vmap is the sum of gradients)"

        def batch(a):
            return jax.tree.map(lambda a: jnp.stack([a, jnp.roll(a, 1)]), a)

        pull = _pulled_back(self._run(self.cell.unroll))
        axes = (0, None, None, 0)
        xs, weights = batch(self.xs), batch(self.weights)
        each = jax.jit(jax.vmap(pull, axes))(weights, self.params, self.carry, xs)
        mapped = _pulled_back(jax.vmap(self._run(self.cell.unroll), axes[1:]))
        out, grads = jax.jit(mapped)(weights, self.params, self.carry, xs)
        summed = jax.tree.map(lambda a: a.sum(0), each[1][:2])
        self.compare(law, (out, grads), (each[0], (*summed, each[1][2])))

    def carry_keeps_its_form(self):
        dtypes = [jnp.bfloat16, jnp.float32]
        if jax.config.read("jax_enable_x64"):
            dtypes.append(jnp.float64)
        for dtype in dtypes:
            params, xs = _cast(self.params, dtype), _cast(self.xs, dtype)
            before = jax.eval_shape(self.cell.initial_carry, params)
            after, _ = jax.eval_shape(self.cell.unroll, params, before, xs)
            _same_form(f"law 6 (the carry keeps its form) in {dtype.__name__}",
                       self.cell, before, after)  # fmt: skip

    def one_trace(self):
        traces = []

        def run(params, carry, xs):
            traces.append(None)
            return self.cell.unroll(params, carry, xs)

        with jax.checking_leaks():
            compiled = jax.jit(run)
            try:
                for _ in range(2):
                    compiled(*self.given)
            except Exception as error:
                if "leaked" not in str(error).lower():
                    raise
                raise AssertionError(
                    f"law 7 (one trace) does not hold for {self.cell}: a tracer leaks "
                    "from unroll. Keep arrays in params, carry and xs only."
                ) from error
        if len(traces) != 1:
            raise AssertionError(
                f"law 7 (one trace) does not hold for {self.cell}: two calls with "
                f"equal shapes were traced {len(traces)} times."
            )

    def compare(self, law: str, found: Any, expected: Any) -> None:
        """Two pairs ``(outputs, gradients)``, float leaves by the largest of each."""
        names = ("the outputs", "the gradients")
        for name, one, other in zip(names, found, expected, strict=True):
            _same_form(f"law {law} in {name}", self.cell, other, one)
            pairs = zip(
                jax.tree_util.tree_leaves_with_path(one),
                jax.tree.leaves(other),
                strict=True,
            )
            for (path, a), b in pairs:
                a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
                allowed = self.tolerance * (1 + np.abs(b).max(initial=0))
                difference = np.abs(a - b).max(initial=0)
                if not difference <= allowed:
                    raise AssertionError(
                        f"law {law} does not hold for {self.cell}: {name}"
                        f"{jax.tree_util.keystr(path)} differ by {difference:.3g}, "
                        f"allowed are {allowed:.3g}."
                    )


def _pulled_back(function: Callable) -> Callable:
    """``(weights, *args) -> (outputs, gradients of <outputs, weights> by args)``."""

    def pulled(weights, params, *args):
        inputs, flags = (params, *args), ()
        if len(inputs) > 3:
            inputs, flags = inputs[:3], inputs[3:]
        out, pull = jax.vjp(lambda *given: function(*given, *flags), *inputs)
        cotangents = jax.tree.map(_cotangent, out, weights)
        return out, _floating(pull(cotangents))

    return pulled


def _cotangent(out: Array, weight: Array) -> Any:
    if _is_float(out):
        return weight.astype(out.dtype)
    return np.zeros(out.shape, jax.dtypes.float0)


def _is_float(a: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(a), jnp.floating)


def _floating(tree: Any) -> Any:
    return jax.tree.map(lambda a: a if _is_float(a) else None, tree)


def _cast(tree: Any, dtype: Any) -> Any:
    def cast(a):
        a = jnp.asarray(a)
        return a.astype(dtype) if dtype is not None and _is_float(a) else a

    return jax.tree.map(cast, tree)


def _draw(key: Array, tree: Any, leading: tuple[int, ...] = ()) -> Any:
    """Random arrays of the shapes in a tree, integers from 0 to those in it."""
    leaves, structure = jax.tree.flatten(tree)

    def draw(key, a):
        shape = (*leading, *a.shape)
        if _is_float(a):
            return jax.random.normal(key, shape, a.dtype)
        if not isinstance(a, jax.Array | np.ndarray):
            return jnp.zeros(shape, a.dtype)  # the weight of an integer output
        return jax.random.randint(key, shape, 0, jnp.max(a) + 1, a.dtype)

    keys = jax.random.split(key, len(leaves) + 1)[1:]
    drawn = [draw(k, a) for k, a in zip(keys, leaves, strict=True)]
    return jax.tree.unflatten(structure, drawn)


def _perturbed(key: Array, tree: Any) -> Any:
    """Away from zeros and ones, where terms vanish and mistakes hide."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves) + 1)[1:]
    moved = [
        a + 0.3 * jax.random.normal(k, a.shape, a.dtype) if _is_float(a) else a
        for k, a in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(structure, moved)


def _where(flag: Array, one: Any, other: Any) -> Any:
    return jax.tree.map(lambda a, b: jnp.where(flag, a, b), one, other)


def _take(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda a: a[index], tree)


def _spread(tree: Any) -> Any:
    """Values of the valid steps at their places in the sequence, zero elsewhere."""

    def spread(a):
        return jnp.zeros((_TIME, *a.shape[1:]), a.dtype).at[_VALID].set(a)

    return jax.tree.map(spread, tree)


def _pollute(a: Array, filler: float) -> Array:
    fill = filler if _is_float(a) else np.iinfo(a.dtype).max
    return a.at[~_VALID].set(fill)


def _same_form(law: str, cell: Cell, expected: Any, found: Any) -> None:
    def form(tree):
        return jax.tree.map(lambda a: (jnp.shape(a), jnp.result_type(a).name), tree)

    if form(expected) != form(found):
        raise AssertionError(
            f"{law} does not hold for {cell}: expected {form(expected)}, "
            f"got {form(found)}."
        )
