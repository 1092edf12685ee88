"""Programs that run without this library: StableHLO by `jax.export`, and ONNX graphs.

Both leave batch and time open. Both take a carry and lengths and return the next carry,
so a sequence may come in chunks and a batch may be ragged.
"""

from rnnjax.export.onnx import to_onnx
from rnnjax.export.program import initial_carry, plain, step, unroll

__all__ = ["initial_carry", "plain", "step", "to_onnx", "unroll"]
