"""What is said to a user who passed the wrong thing, before any tracing goes deep.

Every sentence names the argument, what came, what was expected and what to write.
"""

from rnnjax.checks.arguments import (
    activation,
    cell,
    cells,
    choice,
    flag,
    floating,
    function,
    number,
    positive,
    rate,
    size,
)
from rnnjax.checks.calls import (
    array,
    arrays,
    carry,
    cast,
    flags,
    float_dtype,
    key,
    lengths,
    model,
    noise_key,
    reset,
    sequence,
    step_input,
    time_steps,
    timed_input,
)

__all__ = [
    "activation",
    "array",
    "arrays",
    "carry",
    "cast",
    "cell",
    "cells",
    "choice",
    "flag",
    "flags",
    "float_dtype",
    "floating",
    "function",
    "key",
    "lengths",
    "model",
    "noise_key",
    "number",
    "positive",
    "rate",
    "reset",
    "sequence",
    "size",
    "step_input",
    "time_steps",
    "timed_input",
]
