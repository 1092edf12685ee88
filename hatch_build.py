"""Compiles the CPU kernels with the package, where there is a C++ compiler.

Without one, or if the compiler fails, the package is built all the same and its
recurrences run through XLA: one warning says so.
"""

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


def _load(path: Path) -> ModuleType:
    """Import the module at ``path`` without its package, which would import jax."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class KernelBuildHook(BuildHookInterface):
    """Adds the compiled library to wheels and editable installs."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile the kernels, before hatchling collects files."""
        kernels = Path(self.root, "rnnjax", "kernels")
        try:
            library = _load(kernels / "compile.py").compile_library()
        except (RuntimeError, OSError) as error:
            (kernels / "_native.so").unlink(missing_ok=True)
            self.app.display_warning(
                "rnnjax is built without its CPU kernels and will run through "
                f"XLA alone: {error}"
            )
            return
        build_data["pure_python"] = False
        # The library is loaded with ctypes: any Python of this platform will do.
        system = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"py3-none-{system}"
        build_data["artifacts"].append(str(library.relative_to(self.root)))
