"""The tables of the pages for those who come from another library: each line runs."""

import pathlib
import re

import pytest

DOCS = pathlib.Path(__file__).parents[2] / "docs"
NAMES = {"torch": "torch", "keras": "Keras", "flax": "Flax", "haiku": "Haiku"}


def lines():
    """The page and our code, of every line of every table that has code of ours."""
    for page, library in NAMES.items():
        text = (DOCS / f"from-{page}.md").read_text()
        for table in re.findall(
            rf"\| {library} \| rnnjax .*\n\|[-|]*\n((?:\|.*\n)+)", text
        ):
            for line in table.splitlines():
                # A bar within code is no end of a cell; none of ours has one.
                theirs, ours = line.split("|")[1:3]
                yield pytest.param(page, ours, id=f"{page} {theirs.strip()}")


@pytest.fixture(scope="module")
def names():
    """What the first block of each page defines, once for all its lines."""
    found = {}
    for page in NAMES:
        text = (DOCS / f"from-{page}.md").read_text()
        block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        assert block is not None
        found[page] = {}
        exec(block[1], found[page])
    return found


@pytest.mark.float32
@pytest.mark.parametrize(("page", "ours"), list(lines()))
def test_each_line_of_the_tables_runs(page, ours, names):
    code = re.findall(r"`([^`]+)`", ours)
    assert code
    for each in code:
        eval(each, names[page])
