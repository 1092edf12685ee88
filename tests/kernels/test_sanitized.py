"""The kernels under address and undefined-behaviour sanitizers."""

from __future__ import annotations

import shlex
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rnnjax.kernels import compile as build

FLAGS = [
    *("-std=c++17", "-O1", "-g", "-pthread", "-ffp-contract=fast"),
    *("-fsanitize=address,undefined", "-fno-sanitize-recover=all"),
    f"-I{build.SOURCES}",
]


def sanitizers_work(compiler, folder):
    """Whether this compiler has the sanitizers' libraries."""
    source, program = folder / "empty.cc", folder / "empty"
    source.write_text("int main() {}\n")
    command = [*compiler, *FLAGS, str(source), "-o", str(program)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_kernels_run_clean_and_alike_on_any_number_of_threads(tmp_path):
    compiler = build.find_compiler()
    if compiler is None or not sanitizers_work(compiler, tmp_path):
        pytest.skip("no C++ compiler with sanitizers")
    jobs = [
        (build.SOURCES / "kernels.cc", [f"-DRNNJAX_ISA={name}", *flags])
        for name, flags in build.instruction_sets().items()
    ]
    jobs += [(build.SOURCES / name, []) for name in ("dispatch.cc", "schedule.cc")]
    jobs.append((Path(__file__).parent / "sanitize.cc", []))

    def compile_one(numbered):
        number, (source, flags) = numbered
        target = str(tmp_path / f"{number}.o")
        run([*compiler, *FLAGS, *flags, "-c", str(source), "-o", target])
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = list(pool.map(compile_one, enumerate(jobs)))
    program = str(tmp_path / "sanitize")
    run([*compiler, *FLAGS, *objects, "-o", program])
    assert run([program]).endswith(" 0 failures\n")


def run(command):
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    output = f"{shlex.join(command)}\n{result.stdout}{result.stderr}"
    assert result.returncode == 0, output[-4000:]
    return result.stdout
