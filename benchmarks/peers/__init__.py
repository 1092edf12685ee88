"""The libraries that are compared, each in a module.

A module has ``PACKAGES``, whose versions are printed, and ``prepare(case)``, which
makes a `Prepared` or raises `LeftOut` with the reason. It may have ``about()``, a line
for the report's heading.
"""

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

MODULES = {
    "torch": "benchmarks.peers.torch_nn",
    "scan": "benchmarks.peers.plain_scan",
    "flax-linen": "benchmarks.peers.flax_linen",
    "flax-nnx": "benchmarks.peers.flax_nnx",
    "haiku": "benchmarks.peers.haiku_cores",
    "equinox": "benchmarks.peers.equinox_cells",
    "keras-jax": "benchmarks.peers.keras_jax",
    "rnnjax": "benchmarks.peers.rnnjax_cells",
}
OURS = "rnnjax"
# What our LSTM and GRU may walk with on a GPU, if they are told to.
ON_GPU = {
    "rnnjax-cudnn": "benchmarks.peers.rnnjax_cudnn",
    "rnnjax-pallas": "benchmarks.peers.rnnjax_pallas",
}
DEVICES = {"cpu": MODULES, "gpu": MODULES | ON_GPU}
DEVICE = os.environ.get("BENCHMARKS_DEVICE", "cpu")
"""Where the libraries of this process compute, one of `DEVICES`."""
TF32 = os.environ.get("BENCHMARKS_TF32") == "1"
"""Whether a GPU may round the factors of float32 products to TF32."""
TRAINING_STEPS = 3


class LeftOut(Exception):
    """This library has no such thing; the message says what is missing."""


class Prepared(NamedTuple):
    """A case made ready by a library.

    ``call()`` does the work once and returns when it is done; ``outputs(result)`` is
    what the libraries must agree on, by name, in the layout of `workloads.Data`.
    """

    call: Callable[[], Any]
    outputs: Callable[[Any], dict[str, np.ndarray]]
    trace_seconds: float = 0.0
    compile_seconds: float = 0.0
    temporary_bytes: int | None = None


def named_gradients(layers: Any) -> dict[str, np.ndarray]:
    """Gradients of `workloads.Layer` weights, each array under a name."""
    return {
        f"gradient of {field} in layer {i}": np.asarray(array)
        for i, layer in enumerate(layers)
        for field, array in layer._asdict().items()
        if array is not None
    }
