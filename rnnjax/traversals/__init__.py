"""The traversals, one in each module; `rnnjax.scan` is where users find them.

Each takes a recurrence as two functions of one example, ``project(params, x) -> z``
for what does not depend on the carry and ``step(params, carry, z) -> (carry, y)`` for
what does. Each agrees with every other in values and gradients, and differs from it in
speed and memory.
"""
