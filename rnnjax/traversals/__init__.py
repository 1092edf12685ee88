"""The traversals, one in each module; users find them in `rnnjax.scan`.

Each takes a recurrence as two functions of one example, ``project(params, x) -> z`` for
what does not depend on the carry and ``step(params, carry, z) -> (carry, y)`` for what
does. All agree in values and gradients; they differ only in speed and memory.
"""
