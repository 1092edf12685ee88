"""The README's code runs, what pages say is what the code does, links lead somewhere.

The code of the pages in docs runs when the site is built, by the same `run_page`.
"""

import doctest
import importlib.util
import pathlib
import re
import runpy

import jax.numpy as jnp
import pytest
from core import test_misuse
from training import test_refusals

import rnnjax

MISUSES = test_misuse.MISUSES | test_refusals.MISUSES
ROOT = pathlib.Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("**/*.md")])


def script(name):
    return runpy.run_path(str(DOCS / name))


@pytest.mark.float32
def test_code_of_the_readme_runs():
    script("_ext/pages.py")["run_page"](ROOT / "README.md")


def test_code_that_fails_is_found_with_its_line(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n\n```python\na = 1\n```\n\n```python\n\n1 / (a - 1)\n```\n"
    )
    with pytest.raises(ZeroDivisionError) as caught:
        script("_ext/pages.py")["run_page"](page)
    assert caught.traceback[-1].lineno + 1 == 9
    assert str(caught.traceback[-1].path) == str(page)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_of_a_page_lead_somewhere(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_readme_is_short_before_its_reference_part():
    text = (ROOT / "README.md").read_text().split("\n## Reference")[0]
    words = re.sub(r"```.*?```", "", text, flags=re.DOTALL).split()
    assert len(words) < 500


def test_the_layout_of_the_design_has_every_room():
    table = (DOCS / "design.md").read_text().split("## Layout")[1].split("\n## ")[0]
    firsts = re.findall(r"^\| (`.*?`) \|", table, re.MULTILINE)
    rooms = [name for first in firsts for name in re.findall(r"`(\w+)`", first)]
    found = {p.stem for p in (ROOT / "rnnjax").iterdir() if p.suffix in ("", ".py")}
    assert sorted(rooms) == sorted(found - {"__init__", "__pycache__"})


def test_every_public_function_has_a_runnable_example():
    public = script("_ext/public.py")
    for module in public["public_modules"]():
        for name, value in public["public_names"](module):
            if callable(value) and not isinstance(value, type):
                assert ">>> " in (value.__doc__ or ""), f"{module.__name__}.{name}"


def test_a_public_name_without_an_entry_is_named():
    wanting = script("_ext/public.py")["undocumented"]({"rnnjax.cells.lstm"})
    assert "rnnjax.gru stands on no page in docs/api" in wanting
    assert not any(sentence.startswith("rnnjax.lstm ") for sentence in wanting)


@pytest.mark.parametrize("name", script("make_pictures.py")["PICTURES"])
def test_pictures_are_up_to_date(name):
    drawn = script("make_pictures.py")["PICTURES"][name]()
    assert (DOCS / "images" / name).read_text(encoding="utf-8") == drawn, (
        f"docs/images/{name} is an old one. Run python docs/make_pictures.py."
    )


@pytest.mark.float32
def test_the_page_of_errors_is_up_to_date():
    assert (DOCS / "errors.md").read_text(encoding="utf-8") == script("make_errors.py")[
        "page"
    ](), "docs/errors.md is an old one. Run python docs/make_errors.py."


@pytest.mark.float32
def test_every_misuse_is_on_the_page_of_errors(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    errors = script("make_errors.py")
    names = {}
    exec(errors["NAMES"], names)
    entries = {entry.misuse: entry for entry in errors["entries"]()}
    assert entries.keys() == MISUSES.keys()
    for misuse, (_, kind, sentence) in MISUSES.items():
        error = errors["raised"](entries[misuse], names)
        assert type(error) is kind, misuse
        # The tests run in float64, the page in what users have.
        any_dtype = re.sub(r"(float|int)(32|64)|bfloat16", r"\\w+", sentence)
        assert re.search(f"(?s){any_dtype}", error.args[0]), misuse


def test_the_skeleton_of_a_cell_is_one(tmp_path, monkeypatch):
    """Copied from its page to a file it keeps the contract and the house's customs."""
    pages = script("_ext/pages.py")
    _, code = next(pages["blocks"]((DOCS / "add-a-cell.md").read_text()))
    path = tmp_path / "minimal_rnn.py"
    path.write_text(code)
    spec = importlib.util.spec_from_file_location("minimal_rnn", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(rnnjax, "minimal_rnn", module.minimal_rnn, raising=False)

    rnnjax.testing.check_cell(module.minimal_rnn(2, 3), jnp.ones(2))
    (example,) = doctest.DocTestFinder().find(
        module.minimal_rnn, module=False, globs=vars(module)
    )
    assert doctest.DocTestRunner().run(example).failed == 0
    entry = script("make_cells.py")["section"](module.minimal_rnn)
    assert entry.startswith("\n### minimal_rnn\n")
    assert entry.count("&=") == 3
    assert "2017" in entry
    assert "- Walked by `scan.default`; in parallel: `scan.newton`\n" in entry
