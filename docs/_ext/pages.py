"""The Python on a page, run from top to bottom: by the site's build and tests."""

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(text: str) -> Iterator[tuple[int, str]]:
    """Each ``python`` block of a page: the line it starts on, and its code."""
    for block in BLOCK.finditer(text):
        yield text[: block.start(1)].count("\n") + 1, block[1]


def run_page(page: Path) -> dict[str, Any]:
    """Run the blocks of a page in one namespace, which is returned.

    They run in an empty folder, so that a page may write files. Line numbers of a
    traceback are those of the page.
    """
    namespace: dict[str, Any] = {"__name__": page.stem}
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            for line, code in blocks(page.read_text(encoding="utf-8")):
                padded = "\n" * (line - 1) + code
                exec(compile(padded, str(page), "exec"), namespace)
        finally:
            os.chdir(before)
    return namespace
