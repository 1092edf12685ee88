"""Meshes of chips that are elsewhere, for the compilers of TPUs and NVIDIA GPUs.

The compilers come with ``pip install -e ".[aot]"`` and need no chip: libtpu is one, and
the other is in XLA's plugin for GPUs, which needs none of CUDA's libraries for it. JAX
itself must run on a CPU: set ``JAX_PLATFORMS=cpu``.
"""

import importlib.util
import os
from typing import Any

import numpy as np
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh

# What the compiler asks of a GPU, as the driver of an H100 with 80 GB (SXM) answers.
H100 = {
    "gpu_device_info": {
        "cuda_compute_capability": {"major": 9, "minor": 0},
        "core_count": 132,
        "clock_rate_ghz": 1.98,
        "fpus_per_core": 128,
        "threads_per_warp": 32,
        "threads_per_block_limit": 1024,
        "threads_per_core_limit": 2048,
        "block_dim_limit_x": 2**31 - 1,
        "block_dim_limit_y": 2**16 - 1,
        "block_dim_limit_z": 2**16 - 1,
        "registers_per_block_limit": 2**16,
        "registers_per_core_limit": 2**16,
        "shared_memory_per_block": 48 * 2**10,
        "shared_memory_per_block_optin": 227 * 2**10,
        "shared_memory_per_core": 228 * 2**10,
        "l2_cache_size": 50 * 2**20,
        "device_memory_size": 84_942_979_072,
        "memory_bandwidth": 3_352_320_000_000,
    },
    "dnn_version_info": {"major": 9, "minor": 8},
    "platform_name": "CUDA",
    "device_description_str": "NVIDIA H100 80GB HBM3",
}
NAMES = {"tpu": "v5e", "cuda": "H100"}
_PACKAGES = {"tpu": "libtpu", "cuda": "jax_cuda13_plugin"}


def missing() -> str:
    """What is not installed of the compilers, as a sentence; empty if all is there."""
    absent = [name for name in _PACKAGES.values() if not importlib.util.find_spec(name)]
    if not absent:
        return ""
    return f'no {" and no ".join(absent)}: pip install -e ".[aot]"'


def mesh(platform: str, chips: int) -> Mesh:
    """A mesh with one axis, "data", over chips of one host.

    Args:
      platform: "tpu" for v5e, or "cuda" for H100s.
      chips: of a v5e host up to four.
    """
    make = {"tpu": _tpu, "cuda": _gpu}[platform]
    return Mesh(np.array(make(chips)), ("data",))


def abstract(mesh: Mesh) -> AbstractMesh:
    """A mesh without an axis that says what the chips of another mesh are.

    >>> import jax
    >>> from benchmarks import topologies
    >>> cpus = jax.make_mesh((1,), ("data",))
    >>> topologies.abstract(cpus).abstract_device.platform
    'cpu'
    """
    chip = mesh.devices.flat[0]
    cores = getattr(chip, "num_cores", None)
    device = AbstractDevice(chip.device_kind, cores, platform=chip.platform)
    return AbstractMesh((), (), abstract_device=device)


def _tpu(chips: int) -> list[Any]:
    # Several processes may compile at once, since none of them holds a chip.
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "1")
    host = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x2")
    return host.devices[:chips]


def _gpu(chips: int) -> list[Any]:
    return topologies.get_topology_desc(
        platform="cuda",
        topology_name="H100",
        topology=f"1x1x{chips}",
        target_config=_as_text(H100),
    ).devices


def _as_text(message: dict[str, Any]) -> str:
    """A protocol buffer in its text format."""

    def field(name, value):
        if isinstance(value, dict):
            return f"{name} {{ {_as_text(value)} }}"
        return f'{name}: "{value}"' if isinstance(value, str) else f"{name}: {value}"

    return " ".join(field(*pair) for pair in message.items())
