"""The package's own build: with no compiler, with a broken and with an absent one."""

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from rnnjax.kernels import compile as build

ROOT = Path(__file__).parents[2]
LIBRARY = "rnnjax/kernels/_native.so"


@pytest.fixture
def tree(tmp_path):
    """What a wheel is built from, with a library of before."""
    folder = tmp_path / "tree"
    shutil.copytree(
        ROOT / "rnnjax",
        folder / "rnnjax",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    for name in ("pyproject.toml", "README.md", "LICENSE", "hatch_build.py"):
        shutil.copy2(ROOT / name, folder / name)
    (folder / LIBRARY).write_bytes(b"of before")
    return folder


def wheel(tree, **environment):
    """Build a wheel as installers do, and give its path and what was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel"],
        cwd=tree,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (found,) = (tree / "dist").glob("*.whl")
    return found, done.stdout + done.stderr


def program(folder, script):
    path = folder / "c++"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.mark.parametrize("compiler", ["none", "absent", "broken", "unreadable"])
def test_a_build_without_a_compiler_that_works_is_one_of_python_alone(
    tree, tmp_path, compiler
):
    environment, reason = {
        "none": ({"CXX": "", "PATH": str(tree / "rnnjax")}, "no C++ compiler found"),
        "absent": ({"CXX": "/nowhere/g++ -O3"}, "/nowhere/g++ could not be run"),
        "broken": (
            {"CXX": str(program(tmp_path, "echo it is broken >&2; exit 1"))},
            "it is broken",
        ),
        "unreadable": ({"CXX": 'g++ "-O3'}, "is no command: No closing quotation"),
    }[compiler]
    path, output = wheel(tree, **environment)
    assert path.name.endswith("-py3-none-any.whl")
    assert LIBRARY not in zipfile.ZipFile(path).namelist()
    assert "built without its CPU kernels" in output
    assert reason in output


def test_a_build_with_a_compiler_holds_a_library_that_is_whole(tree, tmp_path):
    """The compiler only writes files: what it would compile is tested elsewhere."""
    script = 'while [ "$1" != -o ]; do shift; done; echo compiled > "$2"'
    path, output = wheel(tree, CXX=str(program(tmp_path, script)))
    assert "without its CPU kernels" not in output
    assert "-py3-none-" in path.name
    assert not path.name.endswith("-any.whl")
    zipfile.ZipFile(path).extract(LIBRARY, tmp_path)
    library = tmp_path / LIBRARY
    assert build.is_sealed(library)
    assert library.read_bytes().startswith(b"compiled\n")


def test_the_library_needs_only_what_every_linux_has():
    """What auditwheel would copy into the wheel, and so break the library's seal."""
    if not build.LIBRARY.exists() or shutil.which("readelf") is None:
        pytest.skip("no compiled library, or no readelf")
    done = subprocess.run(
        ["readelf", "-dW", str(build.LIBRARY)],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = set(re.findall(r"\(NEEDED\).*\[(\w[\w+-]*)\.so", done.stdout))
    assert "libc" in needed
    given = {"libc", "libm", "libstdc++", "libgcc_s", "libpthread", "ld-linux-x86-64"}
    assert needed <= given | {"ld-linux-aarch64"}


def test_a_release_is_tried_on_each_python_that_the_package_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [
        line.rsplit(" ", 1)[1]
        for line in project["project"]["classifiers"]
        if re.search(r":: 3\.\d+$", line)
    ]
    built = project["tool"]["cibuildwheel"]["build"]
    assert built == [f"cp{v.replace('.', '')}-manylinux_*" for v in named]
    assert f"for version in {' '.join(named)}; do" in (ROOT / ".ci/release").read_text()


def test_a_compiler_that_fails_leaves_the_library_as_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", str(program(tmp_path, "exit 1")))
    target = tmp_path / "_native.so"
    target.write_bytes(b"of before")
    with pytest.raises(RuntimeError, match="failed:"):
        build.compile_library(target)
    assert target.read_bytes() == b"of before"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["_native.so", "c++"]


def test_the_sources_are_formatted():
    if shutil.which("clang-format") is None:
        pytest.skip("no clang-format")
    sources = [*build.SOURCES.glob("*.h"), *build.SOURCES.glob("*.cc")]
    sources.append(Path(__file__).parent / "sanitize.cc")
    command = ["clang-format", "--dry-run", "-Werror", *map(str, sources)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
