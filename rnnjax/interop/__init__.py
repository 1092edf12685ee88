"""Weights from and to other libraries, as plain dictionaries of NumPy arrays.

Every ``from_*`` takes a dictionary of arrays by the other library's names and returns
`Imported`, every ``to_*`` takes a cell with its params and returns `Exported`; both
carry a `Report`. No other library is imported: arrays may be anything that NumPy reads,
for example the tensors of a torch ``state_dict()``.
"""

from rnnjax.interop.cudnn import from_cudnn, to_cudnn
from rnnjax.interop.equinox import from_equinox, to_equinox
from rnnjax.interop.flax import from_linen, from_nnx, to_linen, to_nnx
from rnnjax.interop.haiku import from_haiku, to_haiku
from rnnjax.interop.keras import from_keras, to_keras
from rnnjax.interop.onnx import OnnxWeights, from_onnx_weights, to_onnx_weights
from rnnjax.interop.report import Exported, Imported, Report
from rnnjax.interop.safetensors import load_safetensors, save_safetensors
from rnnjax.interop.tensorflow1 import from_tensorflow1, to_tensorflow1
from rnnjax.interop.torch import from_torch, to_torch

__all__ = [
    "Exported",
    "Imported",
    "OnnxWeights",
    "Report",
    "from_cudnn",
    "from_equinox",
    "from_haiku",
    "from_keras",
    "from_linen",
    "from_nnx",
    "from_onnx_weights",
    "from_tensorflow1",
    "from_torch",
    "load_safetensors",
    "save_safetensors",
    "to_cudnn",
    "to_equinox",
    "to_haiku",
    "to_keras",
    "to_linen",
    "to_nnx",
    "to_onnx_weights",
    "to_tensorflow1",
    "to_torch",
]
