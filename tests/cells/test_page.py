"""``docs/cells.md`` says what the code says."""

import pathlib
import runpy

DOCS = pathlib.Path(__file__).parents[2] / "docs"


def test_the_page_of_cells_is_up_to_date():
    made = runpy.run_path(str(DOCS / "make_cells.py"))
    assert (DOCS / "cells.md").read_text() == made["page"](), (
        "docs/cells.md differs from the docstrings. Run python docs/make_cells.py."
    )
