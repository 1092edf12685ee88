"""Imports go one way, every module can be reached, and types are exported by a rule."""

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

import rnnjax
from rnnjax import combinators

ROOT = Path(rnnjax.__file__).parent


def rooms():
    """The rooms of each row of the table in docs/design.md, from the ground up."""
    text = (ROOT.parent / "docs" / "design.md").read_text(encoding="utf-8")
    table = text.split("## Layout")[1].split("\n## ")[0]
    first = [
        line.split("|")[1] for line in table.splitlines() if line.startswith("| `")
    ]
    return [set(re.findall(r"`(\w+)`", cell)) for cell in first]


HEIGHTS = {name: height for height, names in enumerate(rooms()) for name in names}


def modules():
    """Each module's name without the package's, and where it stands."""
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        yield ".".join(p for p in parts if p != "__init__"), path


PATHS = {name: path for name, path in modules() if name}


def imported(name):
    """The modules of the package that a module imports, inside functions too."""
    for node in ast.walk(ast.parse(PATHS[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for full in names:
            package, _, rest = full.partition(".")
            if package != "rnnjax":
                continue
            if rest not in PATHS:  # a name in a module
                rest = rest.rpartition(".")[0]
            yield rest


IMPORTS = {name: set(imported(name)) for name in PATHS}


def may_import(name, other):
    name, other = name.split(".")[0], other.split(".")[0]
    if name == "training":  # it stands alone
        return other in {"training", "cell", "checks", "version"}
    return HEIGHTS.get(other, len(HEIGHTS)) <= HEIGHTS.get(name, len(HEIGHTS))


def test_no_arrow_goes_up():
    up = {
        f"{name} imports {other or 'the whole package'}"
        for name, others in IMPORTS.items()
        for other in others
        if not may_import(name, other)
    }
    assert not up


def test_no_import_comes_back():
    done, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name in done:
            return
        path.append(name)
        for other in sorted(IMPORTS[name] - {""}):
            visit(other)
        path.pop()
        done.add(name)

    for name in PATHS:
        visit(name)


@pytest.mark.parametrize("name", PATHS)
def test_a_module_is_not_hidden_by_a_function_of_its_name(name):
    full = f"rnnjax.{name}"
    module = importlib.import_module(full)
    package, _, last = full.rpartition(".")
    found = getattr(importlib.import_module(package), last)
    if package in ("rnnjax.cells", "rnnjax.traversals"):
        # One family a file, called after its cell: the package is where both are found.
        assert found is module or getattr(found, "__module__", None) == full
    else:
        assert found is module, f"{full} gives {found!r}"


def named_tuples(module):
    return {
        value
        for name, value in vars(module).items()
        if inspect.isclass(value)
        and issubclass(value, tuple)
        and hasattr(value, "_fields")
        and value.__module__ == module.__name__
        and not name.startswith("_")
    }


def test_types_of_params_and_carries_of_exported_cells_are_exported():
    """Whatever NamedTuple a public constructor's module defines stands at the top."""
    homes = {
        inspect.getmodule(inspect.unwrap(getattr(rnnjax, name)))
        for name in rnnjax.__all__
        if name in {*rnnjax.cells.__all__, *combinators.__all__}
    }
    missing = {
        value.__name__
        for home in homes
        if home is not None
        for value in named_tuples(home)
        if getattr(rnnjax, value.__name__, None) is not value
    }
    assert not missing


def test_no_two_files_of_tests_have_one_name():
    """pytest takes them for one module, and collects neither."""
    names = [path.name for path in (ROOT.parent / "tests").rglob("test_*.py")]
    assert len(set(names)) == len(names)
