"""Weights from and to other libraries, as plain dictionaries of NumPy arrays.

Every ``from_*`` takes a dictionary of arrays by the other library's names and returns
`Imported`, every ``to_*`` takes a cell with its params and returns `Exported`; both
carry a `Report`. No other library is imported: arrays may be anything that NumPy reads,
for example a torch ``state_dict()``.
"""

from rnnjax.interop.onnx import OnnxWeights, from_onnx_weights, to_onnx_weights
from rnnjax.interop.report import Exported, Imported, Report

__all__ = [
    "Exported",
    "Imported",
    "OnnxWeights",
    "Report",
    "from_onnx_weights",
    "to_onnx_weights",
]
