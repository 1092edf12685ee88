"""Which rows of tests run on which day: see the marker ``drawn`` of pytest."""

import random


def runs(seed, row, share):
    return random.Random(f"{seed} {row}").random() < share


def split(items, seed, of_all=1.0):
    """The tests that the seed draws, or a share ``of_all`` of them, and the others."""
    kept, left = [], []
    for item in items:
        drawn = item.get_closest_marker("drawn")
        share = drawn.args[0] if drawn else 1
        (kept if runs(seed, item.nodeid, share * of_all) else left).append(item)
    return kept, left
