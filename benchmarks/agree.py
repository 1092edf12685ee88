"""Whether the libraries compute the same thing; nothing is timed before they do."""

import numpy as np

# Largest difference over largest magnitude. float32 rounds to 6e-8, and long
# recurrences add up thousands of such errors; a wrong gate differs by 1e-2 and more.
OUTPUTS = 1e-4
GRADIENTS = 1e-3
# torch keeps two biases per gate, which Adam moves twice as far as the others' one.
LOSSES = 5e-3


# TF32 has 10 bits in place of 23, and each product in a recurrence rounds its factors.
# With it a test tells only gross mistakes, so nothing is published that has not agreed
# in float32 first.
TF32 = 100.0
# bfloat16 keeps 8 bits, and a library may round after every product or after none.
BFLOAT16 = 500.0


def tolerance(name: str) -> float:
    """What two libraries may differ by in the output of that name, in float32."""
    if name.startswith("gradient"):
        return GRADIENTS
    return LOSSES if name == "losses" else OUTPUTS


def differences(
    expected: dict[str, np.ndarray], got: dict[str, np.ndarray], slack: float = 1.0
) -> list[str]:
    """A line for each output that is missing or differs; none if all agree.

    ``slack`` multiplies what is allowed.

    >>> import numpy as np
    >>> differences({"ys": np.ones(3)}, {"ys": np.array([1.0, 1.0, 1.1])})
    ['ys differs by 1.0e-01 of its magnitude; 1.0e-04 is allowed']
    """
    lines = [f"{name} is missing" for name in sorted(expected.keys() - got.keys())]
    lines += [f"{name} is unexpected" for name in sorted(got.keys() - expected.keys())]
    for name in sorted(expected.keys() & got.keys()):
        one, other = expected[name], got[name]
        if one.shape != other.shape:
            lines.append(f"{name} has shape {other.shape}; expected {one.shape}")
            continue
        magnitude = max(float(np.abs(one).max()), np.finfo(np.float32).tiny)
        relative = float(np.abs(one - other).max()) / magnitude
        # Not `relative > allowed`, which NaN would pass.
        allowed = slack * tolerance(name)
        if not relative <= allowed:
            lines.append(
                f"{name} differs by {relative:.1e} of its magnitude; "
                f"{allowed:.1e} is allowed"
            )
    return lines
