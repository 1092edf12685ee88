"""Compiles the CPU kernels: ``python -m rnnjax.kernels.compile``.

The package's own build does the same, so this is for a source tree that was never
built, or for an installation made where there was no compiler. It needs a C++17
compiler (GCC or Clang; ``CXX`` names one) and jaxlib's headers. The build imports this
module alone: it may import nothing but the standard library.
"""

import hashlib
import importlib.util
import os
import platform
import shlex
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

SOURCES = Path(__file__).parent / "src"
LIBRARY = Path(__file__).parent / "_native.so"

# Kernels are compiled once per instruction set, into a namespace of that name.
# Each processor then runs the widest that it has.
_X86_SETS = {
    "avx512": [
        *("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"),
        *("-mavx2", "-mfma", "-mprefer-vector-width=512"),
    ],
    "avx2": ["-mavx2", "-mfma"],
    "portable": [],
}
_FLAGS = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-ffp-contract=fast"]


def find_compiler() -> list[str] | None:
    """The command of a C++ compiler, or ``None`` where there is none.

    Raises:
      RuntimeError: ``CXX`` is no command.

    >>> from rnnjax.kernels import compile as build
    >>> command = build.find_compiler()
    """
    named = os.environ.get("CXX", "").strip()
    if named:
        try:
            return shlex.split(named)
        except ValueError as error:
            raise RuntimeError(f"CXX={named} is no command: {error}") from error
    for name in ("g++", "clang++", "c++"):
        path = shutil.which(name)
        if path:
            return [path]
    return None


def jaxlib_include() -> Path:
    """The folder of XLA's headers, found without importing jaxlib.

    Raises:
      RuntimeError: jaxlib is not installed.

    >>> from rnnjax.kernels import compile as build
    >>> (build.jaxlib_include() / "xla" / "ffi" / "api" / "c_api.h").exists()
    True
    """
    spec = importlib.util.find_spec("jaxlib")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("jaxlib is not installed: its headers are needed")
    return Path(spec.submodule_search_locations[0]) / "include"


def instruction_sets() -> dict[str, list[str]]:
    """Name and compiler flags of every instruction set built for this machine.

    >>> from rnnjax.kernels import compile as build
    >>> "portable" in build.instruction_sets()
    True
    """
    if platform.machine().lower() in ("x86_64", "amd64"):
        return _X86_SETS
    return {"portable": []}


def compile_library(
    target: Path = LIBRARY,
    sources: Path = SOURCES,
    flags: tuple[str, ...] = (),
) -> Path:
    """Compile the kernels and their handlers into one shared library, and seal it.

    Args:
      target: the library to write. It is replaced whole, when all else has worked: a
        process that has the old one open keeps it.
      sources: the folder of the C++ sources.
      flags: more flags for the compiler and linker, such as sanitizers.

    Returns:
      ``target``.

    Raises:
      RuntimeError: there is no compiler, no jaxlib, or the compiler failed; the message
        holds its output.

    >>> from rnnjax.kernels import compile as build
    >>> build.compile_library()  # doctest: +SKIP
    PosixPath('rnnjax/kernels/_native.so')
    """
    compiler = find_compiler()
    if compiler is None:
        raise RuntimeError("no C++ compiler found: install g++ or clang++, or set CXX")
    common = [*compiler, *_FLAGS, f"-I{sources}", f"-isystem{jaxlib_include()}", *flags]
    jobs = [
        (f"{part}_{name}.o", [f"{part}.cc", f"-DRNNJAX_ISA={name}", *set_flags])
        for part in ("kernels", "engine")
        for name, set_flags in instruction_sets().items()
    ]
    jobs += [(f"{n}.o", [f"{n}.cc"]) for n in ("handlers", "dispatch", "schedule")]

    with tempfile.TemporaryDirectory() as folder:

        def compile_one(job: tuple[str, list[str]]) -> str:
            name, (source, *options) = job
            output = str(Path(folder) / name)
            _run([*common, *options, "-c", str(sources / source), "-o", output])
            return output

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(compile_one, jobs))
        linked = Path(folder) / target.name
        _run([*compiler, "-shared", *flags, *objects, "-o", str(linked)])
        _seal(linked, target)
    return target


def _seal(linked: Path, target: Path) -> None:
    """Write the library with its digest at the end, where no loader looks."""
    content = linked.read_bytes()
    beside = target.with_suffix(f".{os.getpid()}.so")
    try:
        beside.write_bytes(content + hashlib.sha256(content).digest())
        shutil.copymode(linked, beside)
        os.replace(beside, target)
    finally:
        beside.unlink(missing_ok=True)


def is_sealed(library: Path) -> bool:
    """Whether a library is, to the last byte, what `compile_library` wrote.

    >>> from pathlib import Path
    >>> from rnnjax.kernels import compile as build
    >>> build.is_sealed(Path(build.__file__))
    False
    """
    content = library.read_bytes()
    size = hashlib.sha256().digest_size
    return hashlib.sha256(content[:-size]).digest() == content[-size:]


def _run(command: list[str]) -> None:
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise RuntimeError(f"{command[0]} could not be run: {error}") from error
    if result.returncode != 0:
        raise RuntimeError(f"{shlex.join(command)} failed:\n{result.stderr.strip()}")


if __name__ == "__main__":
    print(f"compiled {compile_library()}")
