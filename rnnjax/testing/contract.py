"""The seven laws, each written from its words and apart from the library's own way."""

import contextlib
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from rnnjax import checks, guards, signals
from rnnjax.cell import Cell, Keys, NoStepError
from rnnjax.testing import drawing
from rnnjax.testing.comparing import (
    assert_equal,
    assert_same_form,
    floating,
    pulled_back,
)
from rnnjax.testing.drawing import add, join, select, stack, take, zeros_like

_TIME = 8
_HALF = _TIME // 2
_VALID = np.array([True, False, False, True, True, False, True, False])
_START = np.array([True, False, False, True, False, False, False, False])
_FIRST = np.arange(_TIME) < _HALF


def check_cell(cell: Cell, x: Any, *, dtype: Any = None) -> None:
    """Assert that a cell, any cell, keeps the laws that the library promises.

    1. ``unroll`` equals `jax.lax.scan` of ``step``: values, and gradients for params,
       carry and inputs, with every combination of mask and reset;
    2. chunks compose: two unrolls with the carry handed over are one;
    3. padding is inert, NaN and infinity included, in values and gradients: masking
       steps equals leaving them out, and masking all of them returns the carry;
    4. a reset equals separate sequences;
    5. `jax.vmap` equals a loop over the examples, and its gradient is the sum of
       theirs;
    6. the carry keeps its structure, shapes and dtypes, in float32, bfloat16 and
       (where ``jax_enable_x64`` is on) float64 params;
    7. one trace, however often it is called, and no tracer leaks.

    Laws 1 and 2 are about cells with a ``step``; cells that need the whole sequence
    raise `NoStepError` there and are excused.

    Laws 2 and 4 hold with a key, too, which is checked for cells that use one. Random
    numbers belong to places in a sequence, so with the same key a segment between
    resets, or a chunk, equals the sequence in which all else is padding. Where the
    numbers depend on ``Keys.sequence`` alone, chunks may have any ``Keys.step``.

    In bfloat16 and float16 both sides are compared with what float32 gives: a result
    may be about twice as far from it as the plain loop is in the worst of five tries.

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
    check = _Checks(checks.cell("cell", cell), x, dtype)
    if check.causal:
        check.unroll_is_scan_of_step()
        check.chunks_compose()
    check.padding_is_inert()
    check.resets_are_separate_sequences()
    check.vmap_is_a_loop()
    check.carry_keeps_its_form()
    check.one_trace()
    if check.random:
        if check.causal:
            check.noisy_chunks_compose()
        check.noisy_resets_are_separate_sequences()


class _Checks:
    """The data that the laws share; compiling it once is most of their cost."""

    def __init__(self, cell: Cell, x: Any, dtype: Any):
        self.cell = cell
        keys = jax.random.split(jax.random.key(20140103), 5)
        params = drawing.perturbed(keys[0], cell.init(keys[1]))
        self.params = drawing.cast(params, dtype)
        self.x = drawing.cast(x, dtype)
        self.carry = drawing.perturbed(keys[2], cell.initial_carry(self.params))
        self.xs = drawing.draw(keys[3], self.x, (_TIME,))
        self.carry_comes_back()
        run = jax.eval_shape(self._unroll, *self.given)
        self.weights = drawing.draw(keys[4], run)
        self.keys = Keys(jax.random.key(1), jax.random.key(2))
        # Each function is compiled once for each length and set of signals.
        self.unroll = jax.jit(pulled_back(self._unroll))
        self.begin = jax.jit(pulled_back(cell.initial_carry))

    def carry_comes_back(self):
        """Say it by law 6 where other laws would stumble over it first."""
        runs = {"step": (self.cell.step, self.x), "unroll": (self.cell.unroll, self.xs)}
        for name, (run, x) in runs.items():
            with _law_6(self.cell), contextlib.suppress(NoStepError):
                result = jax.eval_shape(run, self.params, self.carry, x)
                guards.returned(name, result, self.carry)

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

    @property
    def random(self) -> bool:
        """Whether anything in the cell uses its key."""

        def run(keys, *given):
            return self._unroll(*given, key=keys)

        return signals.uses_key(run, self.keys, *self.given)

    def _unroll(self, params, carry, xs, mask=None, reset=None, key=None):
        return self.cell.unroll(params, carry, xs, mask=mask, reset=reset, key=key)

    def compare(self, law: str, found: Any, expected: Any, *given: Any) -> None:
        assert_equal(law, self.cell, found, expected, *given)

    def unroll_is_scan_of_step(self):
        law = "1 (unroll equals lax.scan of step)"
        reference = jax.jit(pulled_back(self._scan_of_step))
        for mask in (None, _VALID):
            for reset in (None, _START):
                valid = np.ones(_TIME, bool) if mask is None else mask
                where = np.zeros(_TIME, bool) if reset is None else reset
                self.compare(
                    f"{law}, mask={mask is not None}, reset={reset is not None}",
                    self.unroll(self.weights, *self.given, mask, reset),
                    reference,
                    *(self.weights, *self.given, valid, where),
                )

    def _scan_of_step(self, params, carry, xs, mask, reset):
        cell = self.cell

        def step(carry, inputs):
            x, valid, restart = inputs
            x = jax.tree.map(lambda a: jnp.where(valid, a, jnp.zeros_like(a)), x)
            begin = select(restart, cell.initial_carry(params), carry)
            after, y = cell.step(params, begin, x)
            nothing = jax.tree.map(jnp.zeros_like, y)
            return select(valid, after, carry), select(valid, y, nothing)

        return lax.scan(step, carry, (xs, mask, reset))

    def chunks_compose(self):
        law = "2 (chunks compose)"
        for mask, reset in ((None, None), (_VALID, _START)):
            given = (self.weights, *self.given)
            self.compare(
                f"{law}, mask and reset {mask is not None}",
                self._chunked(*given, mask, reset),
                functools.partial(self._whole, mask=mask, reset=reset),
                *given,
            )

    def _whole(self, weights, params, carry, xs, mask=None, reset=None, key=None):
        return self.unroll(weights, params, carry, xs, mask, reset, key)

    def _chunked(self, weights, *given, keys=(None, None)):
        """Two halves, the carry handed over."""
        params, carry, *sequences = given
        halves = slice(_HALF), slice(_HALF, None)
        parts = [
            (*(take(a, half) for a in sequences), key)
            for half, key in zip(halves, keys, strict=True)
        ]
        pairs = [(weights[0], take(weights[1], half)) for half in halves]
        (carry, *ys), (by_params, by_carry, *by_xs) = self._in_turn(
            pairs, params, carry, parts
        )
        return (carry, join(*ys)), (by_params, by_carry, join(*by_xs))

    def _in_turn(self, weights, params, carry, parts):
        """Two unrolls, each from the carry of the one before; the chain rule by hand.

        Both are calls of one compiled ``unroll``, as they are outside of tests.
        """
        (middle, _), _ = self.unroll(weights[0], params, carry, *parts[0])
        (last, later), grads = self.unroll(weights[1], params, middle, *parts[1])
        handed = _cotangents(grads[1], middle)
        (_, ys), before = self.unroll((handed, weights[0][1]), params, carry, *parts[0])
        by_params = add(before[0], grads[0])
        return (last, ys, later), (by_params, before[1], before[2], grads[2])

    def padding_is_inert(self):
        law = "3 (padding is inert)"

        def left_out(weights, params, carry, xs):
            weights = weights[0], take(weights[1], _VALID)
            out, grads = self.unroll(weights, params, carry, take(xs, _VALID))
            ys, by_inputs = drawing.spread((out[1], grads[2]), _VALID)
            return (out[0], ys), (*grads[:2], by_inputs)

        for filler in (np.nan, np.inf):
            xs = drawing.polluted(self.xs, _VALID, filler)
            self.compare(
                f"{law}, filled with {filler}",
                self.unroll(self.weights, self.params, self.carry, xs, _VALID),
                left_out,
                *(self.weights, *self.given),
            )

        def nothing(weights, params, carry, xs):
            zero = zeros_like((weights[1], params, xs))
            ys = jax.tree.map(lambda a, b: a.astype(b.dtype), zero[0], self.weights[1])
            return (carry, ys), floating((zero[1], weights[0], zero[2]))

        self.compare(
            f"{law}, a sequence of length 0",
            self.unroll(self.weights, *self.given, np.zeros(_TIME, bool)),
            nothing,
            *(self.weights, *self.given),
        )

    def resets_are_separate_sequences(self):
        law = "4 (a reset equals separate sequences)"
        where = np.arange(_TIME) % _HALF == 0
        given = self.weights[1], self.params, self.xs

        def separate(weights, params, xs):
            halves = slice(_HALF), slice(_HALF, None)
            first, second = (
                self._from_the_start(take(weights, half), params, take(xs, half))
                for half in halves
            )
            by_params = add(first[1][0], second[1][0])
            by_xs = join(first[1][1], second[1][1])
            return join(first[0], second[0]), (by_params, by_xs)

        packed = self._from_the_start(*given, None, where)
        self.compare(f"{law}, one right after the other", packed, separate, *given)
        # Two steps of padding after each segment.
        index = np.r_[:_HALF, -1, -1, _HALF:_TIME, -1, -1]
        valid = index >= 0
        weights, params, xs = take(given[0], index), given[1], take(given[2], index)
        ys, (by_params, by_xs) = self._from_the_start(
            weights, params, xs, valid, index % _HALF == 0
        )
        padded = take(ys, valid), (by_params, take(by_xs, valid))
        self.compare(f"{law}, with padding between them", padded, separate, *given)

    def _from_the_start(self, weights, params, xs, *signals):
        """Unroll from the initial carry: outputs, gradients by params and inputs."""
        start = self.cell.initial_carry(params)
        weights = zeros_like(start), weights
        (_, ys), grads = self.unroll(weights, params, start, xs, *signals)
        handed = _cotangents(grads[1], start)
        (through_start,) = self.begin(handed, params)[1]
        return ys, (add(grads[0], through_start), grads[2])

    def vmap_is_a_loop(self):
        law = "5 (a vmap equals a loop over its examples)"

        def batch(tree):
            return stack(tree, jax.tree.map(lambda a: np.roll(a, 1), tree))

        def loop(weights, params, carry, xs, *signals):
            done = [
                self.unroll(take(weights, b), params, *take((carry, xs, *signals), b))
                for b in range(2)
            ]
            return stack(*done)

        def summed(*given):
            out, grads = loop(*given)
            return out, (add(*(take(grads[0], b) for b in range(2))), *grads[1:])

        weights, carry, xs = batch((self.weights, self.carry, self.xs))
        axes = (None, 0, 0, 0, 0)
        mapped = jax.jit(pulled_back(jax.vmap(self._unroll, axes)))
        given = (weights, self.params, carry, xs, *batch((_VALID, _START)))
        self.compare(law, mapped(*given), summed, *given)
        given = given[:4]
        each = jax.jit(jax.vmap(pulled_back(self._unroll), (0, None, 0, 0)))
        self.compare(f"{law}, a gradient for each", each(*given), loop, *given)

    def carry_keeps_its_form(self):
        dtypes = [jnp.bfloat16, jnp.float32]
        if jax.config.read("jax_enable_x64"):
            dtypes.append(jnp.float64)
        for dtype in dtypes:
            params, xs = drawing.forms((self.params, self.xs), dtype)
            before = jax.eval_shape(self.cell.initial_carry, params)
            with _law_6(self.cell):
                after, _ = jax.eval_shape(self.cell.unroll, params, before, xs)
            law = f"law 6 (the carry keeps its form) in {dtype.__name__}"
            assert_same_form(law, self.cell, before, after)

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

    def noisy_chunks_compose(self):
        law = "2 (chunks compose), with a key"
        given = (self.weights, *self.given)
        whole = functools.partial(self._whole, key=self.keys)
        parts = [(self.xs, part, None, self.keys) for part in (_FIRST, ~_FIRST)]
        (carry, *ys), (by_params, by_carry, *by_xs) = self._in_turn(
            [self.weights] * 2, self.params, self.carry, parts
        )
        padded = (
            (carry, select(_FIRST, *ys)),
            (by_params, by_carry, select(_FIRST, *by_xs)),
        )
        self.compare(f"{law}, all else being padding", padded, whole, *given)
        once = whole(*given)
        others = [self.keys._replace(step=jax.random.key(n)) for n in (3, 4)]
        for keys in others:
            again = self._whole(*given, key=keys)
            if not jax.tree.all(jax.tree.map(np.array_equal, once, again)):
                return
        chunked = self._chunked(*given, None, None, keys=others)
        self.compare(f"{law}, whose step differs", chunked, whole, *given)

    def noisy_resets_are_separate_sequences(self):
        law = "4 (a reset equals separate sequences), with a key"
        given = (self.weights[1], self.params, self.xs)

        def separate(weights, params, xs):
            first, second = (
                self._from_the_start(
                    *(weights, params, drawing.polluted(xs, part, np.nan)),
                    *(part, None, self.keys),
                )
                for part in (_FIRST, ~_FIRST)
            )
            by_params = add(first[1][0], second[1][0])
            by_xs = select(_FIRST, first[1][1], second[1][1])
            return select(_FIRST, first[0], second[0]), (by_params, by_xs)

        where = np.arange(_TIME) == _HALF
        packed = self._from_the_start(*given, None, where, self.keys)
        self.compare(law, packed, separate, *given)


def _cotangents(grads: Any, carry: Any) -> Any:
    """Gradients for a carry as weights of the unroll that it comes from."""
    # Leaves that are not floating have none; their own values stand in, and count for
    # nothing.
    return jax.tree.map(
        lambda g, c: c if g is None else g, grads, carry, is_leaf=lambda a: a is None
    )


@contextlib.contextmanager
def _law_6(cell: Cell):
    """Name the law that a cell breaks which says so itself."""
    try:
        yield
    except guards.FormError as error:
        raise AssertionError(
            f"law 6 (the carry keeps its form) does not hold for {cell}: {error}"
        ) from error
