"""Calls that are timed by turns, so that a slow minute of the machine hits them all."""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def medians(calls: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Seconds of each call: the median of so many rounds, after one that counts not."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, taken in zip(calls, times, strict=True):
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    return [statistics.median(taken[1:]) for taken in times]
