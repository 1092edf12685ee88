"""The kernels' core alone: under sanitizers, by two compilers, on another machine."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnnjax.kernels import compile as build

FLAGS = [
    *("-std=c++17", "-pthread", "-ffp-contract=fast", "-Wall", "-Wextra", "-Werror"),
    f"-I{build.SOURCES}",
]
SANITIZE = [
    *("-O1", "-g1"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
]
PORTABLE = {"portable": []}


def sanitizers_work(compiler, folder):
    """Whether this compiler has the sanitizers' libraries."""
    source, program = folder / "empty.cc", folder / "empty"
    source.write_text("int main() {}\n")
    command = [*compiler, *SANITIZE, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def compiled(compiler, flags, sets, folder):
    """The program that runs all kernels of these instruction sets."""
    jobs = [
        (build.SOURCES / f"{part}.cc", [f"-DRNNJAX_ISA={name}", *more])
        for part in ("kernels", "engine")
        for name, more in sets.items()
    ]
    jobs += [(build.SOURCES / name, []) for name in ("dispatch.cc", "schedule.cc")]
    jobs.append((Path(__file__).parent / "sanitize.cc", []))

    def compile_one(numbered):
        number, (source, more) = numbered
        target = str(folder / f"{number}.o")
        run([*compiler, *FLAGS, *flags, *more, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, enumerate(jobs)))
    program = str(folder / "program")
    run([*compiler, *FLAGS, *flags, *objects, "-o", program])
    return program


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    output = f"{shlex.join(command)}\n{result.stdout}{result.stderr}"
    assert result.returncode == 0, output[-4000:]
    return result.stdout


@pytest.mark.drawn(0.2)
def test_kernels_run_clean_and_alike_on_any_number_of_threads(tmp_path):
    compiler = build.find_compiler()
    if compiler is None or not sanitizers_work(compiler, tmp_path):
        pytest.skip("no C++ compiler with sanitizers")
    program = compiled(compiler, SANITIZE, build.instruction_sets(), tmp_path)
    assert run([program]).endswith(" 0 failures\n")


def test_clang_compiles_every_instruction_set_without_a_warning(tmp_path):
    if shutil.which("clang++") is None:
        pytest.skip("no clang++")
    compiled(["clang++"], ["-O0"], build.instruction_sets(), tmp_path)


@pytest.mark.drawn(0.2)
def test_kernels_run_alike_on_aarch64(tmp_path):
    """Compiled for 64-bit Arm, and emulated: about a minute."""
    compiler, machine = "aarch64-linux-gnu-g++", "qemu-aarch64"
    missing = [tool for tool in (compiler, machine) if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"no {' and no '.join(missing)}")
    program = compiled([compiler], ["-O2", "-static"], PORTABLE, tmp_path)
    assert run([machine, program]).endswith(" 0 failures\n")
