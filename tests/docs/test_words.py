"""Docstrings, messages and pages keep to words that are read once."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = ("rnnjax", "examples", "benchmarks", "docs")
MODULES = sorted(path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py"))
PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("**/*.md")]
AVOID = {
    r"\bbehind\b": "after",
    r"\bone's own\b": "your own",
    r"\bof one's\b": "of your",
    r"\bto be had\b": "available",
    r"\bin all(?=\s*([.,;:|)]|\d|$))": "in total",
    r"\blikewise\b": "too",
}


def found(text):
    """The phrases to avoid in a text, whose line ends are spaces."""
    text = re.sub(r"\s+", " ", text)
    return [
        f"{match[0]!r} in '…{text[max(match.start() - 30, 0) : match.end() + 30]}…'; "
        f"write {better!r}"
        for phrase, better in AVOID.items()
        for match in re.finditer(phrase, text, re.IGNORECASE)
    ]


def strings(source):
    """Docstrings, messages and what stands in f-strings between their values."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_docstrings_and_messages_are_plain(path):
    assert [sentence for s in strings(path.read_text()) for sentence in found(s)] == []


@pytest.mark.parametrize("path", PAGES, ids=lambda p: str(p.relative_to(ROOT)))
def test_pages_are_plain(path):
    assert found(path.read_text()) == []


@pytest.mark.parametrize(
    ("text", "count"),
    [
        ("zeros behind the last step", 1),
        ("a constructor of one's\n    own", 1),
        ("took 3 s in all.", 1),
        ("in all 3 s", 1),
        ("in all layers of a stack", 0),
        ("each with its own key", 0),
    ],
)
def test_a_phrase_is_found_over_line_ends(text, count):
    assert bool(found(text)) == bool(count)
