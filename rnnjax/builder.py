"""From two functions of one example to a cell."""

import functools
from typing import Any

import jax

from rnnjax import checks, guards, kernels, scan, signals
from rnnjax.cell import Cell, InitFn, InitialCarryFn


def recurrence(
    init: InitFn,
    initial_carry: InitialCarryFn,
    project: signals.Project,
    step: signals.Step,
    input_shape: tuple[int, ...] | None = None,
    traversal: scan.Traversal = scan.default,
    carry_dtype: Any = None,
) -> Cell:
    r"""A cell from what depends on the carry and what does not.

    .. math:: z_t = project(params, x_t), \quad
              (carry_t, y_t) = step(params, carry_{t-1}, z_t)

    Both functions are written for one example at one time and close over Python values
    only; masks, resets, batches, hoisting, checkpointing and the contract come with
    them. A cell of your own is about twelve lines.

    Args:
      init: ``(key) -> params``, a pytree of arrays.
      initial_carry: ``(params) -> carry``; every step returns a carry of the same
        structure, shapes and dtypes.
      project: ``(params, x) -> z``, the part of a step that can be done for all times
        at once.
      step: ``(params, carry, z) -> (carry, y)``, the part that cannot.
      input_shape: the shape of one input, for example ``(input_size,)``. Inputs are
        then checked, and cast to the dtype of the params; ``None`` takes any pytree.
      traversal: how time is walked, see `rnnjax.scan`. Kernels refuse a step of your
        own: they compute the equations of a built-in cell and do not call it.
      carry_dtype: the floating dtype of the carry, and of all that is computed; that of
        the params if left out. With ``jnp.float32`` bfloat16 params are read as they
        are, while states, sums and outputs keep float32.

    Raises:
      ValueError, TypeError: from the cell's functions, for params, inputs, carries,
        masks, resets and keys that do not fit, and for a ``step`` that returns anything
        but a carry in the form that it got, and an output.

    >>> from typing import NamedTuple
    >>> import jax, jax.numpy as jnp, rnnjax
    >>> class LeakyParams(NamedTuple):
    ...     w_ih: jax.Array
    ...     w_hh: jax.Array
    >>> @rnnjax.constructor
    ... def leaky(input_size, hidden_size, *, rate=0.1):
    ...     def init(key):
    ...         draw = jax.nn.initializers.lecun_normal()
    ...         key_ih, key_hh = jax.random.split(key)
    ...         return LeakyParams(draw(key_ih, (input_size, hidden_size)),
    ...                            draw(key_hh, (hidden_size, hidden_size)))
    ...     def initial_carry(params):
    ...         return jnp.zeros(hidden_size, params.w_hh.dtype)
    ...     def project(params, x):
    ...         return x @ params.w_ih
    ...     def step(params, h, z):
    ...         h = (1 - rate) * h + rate * jnp.tanh(z + h @ params.w_hh)
    ...         return h, h
    ...     return rnnjax.recurrence(init, initial_carry, project, step)
    >>> rnnjax.testing.check_cell(leaky(3, 4), jnp.ones(3))
    """
    checks.function("init", init, "lambda key: ()")
    checks.function("initial_carry", initial_carry, "lambda params: jnp.zeros(4)")
    checks.function("project", project, "lambda params, x: x")
    checks.function("step", step, "a function of (params, carry, z)")
    checks.shape("input_shape", input_shape)
    checks.function("traversal", traversal, "rnnjax.scan.fused")
    kernels.check(traversal, step)
    if carry_dtype is not None:
        carry_dtype = checks.floating("carry_dtype", carry_dtype)

    def computed(params):
        """The params in the dtype of the carry."""
        return params if carry_dtype is None else checks.cast(params, carry_dtype)

    def first_carry(params):
        return initial_carry(computed(params))

    @functools.wraps(step)
    def own_step(params, carry, z):
        return guards.returned(_place(step), step(params, carry, z), carry)

    # A kernel takes the very step that it knows.
    whole_step = step if isinstance(step, kernels.Known) else own_step

    def one_step(params, carry, x):
        params = computed(params)
        x = checks.step_input(x, input_shape, checks.float_dtype(params))
        carry = checks.carry(carry, jax.eval_shape(initial_carry, params))
        return whole_step(params, carry, project(params, x))

    def unroll(params, carry, xs, *, mask=None, reset=None, key=None, reverse=False):
        params = computed(params)
        xs, _ = checks.sequence(xs, input_shape, checks.float_dtype(params))
        start = initial_carry(params)
        carry, mask, reset = signals.read(start, carry, xs, mask, reset, key)
        beside = {"mask": mask, "reset": reset}
        walk = signals.backwards(traversal) if reverse else traversal
        return walk(project, whole_step, params, carry, xs, **beside)

    functions = (init, first_carry, one_step, unroll)
    return Cell(*guards.guarded(None, functions, one_dtype=True))


def _place(step: signals.Step) -> str:
    """What to call the step of a cell that has no name yet: ``leaky.step``."""
    name = getattr(step, "__qualname__", "step")
    return name.replace(".<locals>", "")
