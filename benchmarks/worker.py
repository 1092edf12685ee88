"""One peer in a process of its own: ``python -m benchmarks.worker PEER THREADS``.

It reads one JSON request a line and answers each with one line. Arrays go through
``.npz`` files. Whatever a library prints goes to stderr, for stdout is the channel.
"""

import gc
import importlib
import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np

from benchmarks import machine
from benchmarks.peers import DEVICE, DEVICES, LeftOut, Prepared
from benchmarks.workloads import Case

# A stream makes some 100,000 calls a second; more than this teaches nothing new.
MOST_CALLS = 4000


def main(peer: str, threads: int) -> None:
    channel = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # Thread pools take their size from the cores a process may use, so before imports.
    machine.pin(threads)
    try:
        module = importlib.import_module(DEVICES[DEVICE][peer])
    except ImportError as error:
        _send(channel, {"missing": str(error)})
        return
    about = module.about() if hasattr(module, "about") else ""
    versions = machine.versions(module.PACKAGES)
    prepared: dict[str, Prepared] = {}
    greeting = {"versions": versions, "about": about}
    answer(greeting, lambda asked: _answer(module, prepared, asked), channel)


def answer(
    greeting: Any, reply: Callable[[dict[str, Any]], Any], channel: Any = sys.stdout
) -> None:
    """Greet, and reply to each request until nothing more is asked."""
    _send(channel, greeting)
    for line in sys.stdin:
        _send(channel, reply(json.loads(line)))


def _send(channel: Any, said: Any) -> None:
    channel.write(json.dumps(said) + "\n")
    channel.flush()


def _answer(module: ModuleType, prepared: dict[str, Prepared], request: Any) -> Any:
    try:
        match request["action"]:
            case "prepare":
                case = Case(**request["case"])
                made = module.prepare(case)
                prepared[request["name"]] = made
                return _first_call(made, request["arrays"])
            case "time":
                call = prepared[request["name"]].call
                return {"seconds": _time(call, request["seconds"], request["warm_up"])}
            case _:
                prepared.clear()
                gc.collect()
                return {}
    except LeftOut as reason:
        return {"left_out": str(reason)}
    except Exception:
        return {"error": traceback.format_exc()}


def _first_call(made: Prepared, arrays: str) -> dict[str, Any]:
    """Run once, alone and watched, and write down what came out."""
    gc.collect()
    resident = machine.resident_bytes()
    watched = machine.reset_peak()
    start = time.perf_counter()
    result = made.call()
    first = time.perf_counter() - start
    peak = machine.peak_bytes()
    used = None
    if watched and resident is not None and peak is not None:
        used = max(peak - resident, 0)
    # Files of NumPy hold no bfloat16.
    outputs = {k: np.asarray(a, np.float32) for k, a in made.outputs(result).items()}
    np.savez(arrays, allow_pickle=False, **outputs)
    return {
        "trace_seconds": made.trace_seconds,
        "compile_seconds": made.compile_seconds,
        "first_seconds": first,
        "peak_bytes": used,
        "temporary_bytes": made.temporary_bytes,
    }


def _time(call: Any, seconds: float, warm_up: bool) -> list[float]:
    """The seconds of each call: as many calls as fit into that time, at least one."""
    if warm_up:
        call()
    times = []
    gc.collect()
    gc.disable()
    end = time.perf_counter() + seconds
    while not times or (time.perf_counter() < end and len(times) < MOST_CALLS):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    gc.enable()
    return times


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
