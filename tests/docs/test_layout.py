"""The package has the layout that the page of its design shows: no import goes up."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PACKAGE = ROOT / "rnnjax"


def rooms():
    """The rooms in the order of the page: a later one may import an earlier one."""
    page = (ROOT / "docs/design.md").read_text()
    table = page.split("## Layout")[1].split("\n## ")[0]
    firsts = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    return [name for first in firsts for name in re.findall(r"`(\w+)`", first)]


def imported(tree):
    """The rooms that a module imports from."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rnnjax":
            yield from (alias.name for alias in node.names)
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        yield from (n.split(".")[1] for n in names if n.startswith("rnnjax."))


def test_every_room_is_on_the_page():
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or p.is_dir()}
    assert sorted(rooms()) == sorted(found - {"__init__", "__pycache__"})


@pytest.mark.parametrize("room", rooms())
def test_imports_go_one_way(room):
    order = rooms()
    single = PACKAGE / f"{room}.py"
    for path in [single] if single.exists() else (PACKAGE / room).rglob("*.py"):
        for other in set(imported(ast.parse(path.read_text()))) - {room}:
            assert order.index(other) < order.index(room), f"{path.name}: {other}"


def test_an_import_that_goes_up_is_seen():
    tree = ast.parse("import rnnjax.cells\nfrom rnnjax import scan\nimport jax")
    assert set(imported(tree)) == {"cells", "scan"}
