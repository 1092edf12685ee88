"""Which names are public, and which of them lack a docstring or an entry."""

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import rnnjax

# Modules, and packages with all of their modules, whose names users do not import. All
# others are public, or their package exports what they define.
INTERNAL = {
    "rnnjax.analysis.diagram",
    "rnnjax.analysis.harvest",
    "rnnjax.analysis.opening",
    "rnnjax.cells.exponential",
    "rnnjax.cells.heads",
    "rnnjax.cells.prepared",
    "rnnjax.checks",
    "rnnjax.combinators.alignment",
    "rnnjax.combinators.features",
    "rnnjax.combinators.stepping",
    "rnnjax.export.graph",
    "rnnjax.export.nodes",
    "rnnjax.flax.modules",
    "rnnjax.floats",
    "rnnjax.forms",
    "rnnjax.guards",
    "rnnjax.interop.arrays",
    "rnnjax.interop.layers",
    "rnnjax.interop.names",
    "rnnjax.interop.onnx_attributes",
    "rnnjax.interop.weights",
    "rnnjax.kernels.apart",
    "rnnjax.kernels.assembly",
    "rnnjax.kernels.compile",
    "rnnjax.kernels.contractions",
    "rnnjax.kernels.convolutions",
    "rnnjax.kernels.cross_entropy",
    "rnnjax.kernels.cudnn",
    "rnnjax.kernels.cudnn_layout",
    "rnnjax.kernels.equations",
    "rnnjax.kernels.flat",
    "rnnjax.kernels.fusions",
    "rnnjax.kernels.layout",
    "rnnjax.kernels.lifetimes",
    "rnnjax.kernels.linear",
    "rnnjax.kernels.loop_derivatives",
    "rnnjax.kernels.loops",
    "rnnjax.kernels.memory",
    "rnnjax.kernels.moves",
    "rnnjax.kernels.native",
    "rnnjax.kernels.native_loop",
    "rnnjax.kernels.nodes",
    "rnnjax.kernels.pallas",
    "rnnjax.kernels.pallas_tpu",
    "rnnjax.kernels.partitioning",
    "rnnjax.kernels.primitives",
    "rnnjax.kernels.products",
    "rnnjax.kernels.reference",
    "rnnjax.kernels.remade",
    "rnnjax.kernels.shared_memory",
    "rnnjax.kernels.steps",
    "rnnjax.kernels.translation",
    "rnnjax.meshes",
    "rnnjax.online.generic",
    "rnnjax.online.stepping",
    "rnnjax.programs",
    "rnnjax.signals",
    "rnnjax.structure",
    "rnnjax.testing.comparing",
    "rnnjax.testing.drawing",
    "rnnjax.training.batches",
    "rnnjax.training.devices",
    "rnnjax.training.files",
    "rnnjax.traversals",
    "rnnjax.version",
}


def public_modules() -> list[ModuleType]:
    """The package, and the modules that its users import names from."""
    names = [
        module.name
        for module in pkgutil.walk_packages(rnnjax.__path__, "rnnjax.")
        if INTERNAL.isdisjoint((module.name, module.name.rpartition(".")[0]))
        and "._" not in module.name
    ]
    modules = [importlib.import_module(n) for n in names if not _is_home(n)]
    return [rnnjax, *modules]


def public_names(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """What a public module offers: ``__all__``, or what it defines itself."""
    listed = getattr(module, "__all__", None)
    for name in vars(module) if listed is None else listed:
        value = getattr(module, name)
        own = getattr(value, "__module__", "") == module.__name__ and callable(value)
        if not inspect.ismodule(value) and (
            listed is not None or (own and not name.startswith("_"))
        ):
            yield name, value


def undocumented(documented: set[str]) -> list[str]:
    """A sentence for each public name that lacks a docstring or an entry.

    ``documented`` holds the full names of the entries, by whatever way a name is
    reached: ``rnnjax.lstm`` stands for ``rnnjax.cells.lstm``.
    """
    entries = {id(_find(name)) for name in documented}
    return [
        f"{module.__name__}.{name} {wanting}"
        for module in public_modules()
        for name, value in public_names(module)
        for wanting, there in (
            ("has no docstring of its own", _has_own_docstring(value)),
            ("stands on no page in docs/api", id(value) in entries),
        )
        if not there
    ]


def _is_home(module: str) -> bool:
    """Whether the package above exports something that this module defines."""
    package = importlib.import_module(module.rpartition(".")[0])
    return any(
        getattr(getattr(package, name), "__module__", "") == module
        for name in package.__all__
    )


def _find(name: str) -> Any:
    parts = name.split(".")
    # From the left: rnnjax.trace is the function, though a module has that name too.
    for split in range(1, len(parts) + 1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
            for part in parts[split:]:
                found = getattr(found, part)
        except (ImportError, AttributeError):
            continue
        return found
    raise ValueError(f"{name} has an entry in docs/api, and does not exist")


def _has_own_docstring(value: Any) -> bool:
    doc = inspect.getdoc(value) or ""
    inherited = isinstance(value, type) and any(
        doc == (inspect.getdoc(base) or "") for base in value.__mro__[1:]
    )
    # What NamedTuple and dataclass write by themselves is the signature.
    written = doc and not doc.startswith(f"{getattr(value, '__name__', '')}(")
    return bool(written) and not inherited
