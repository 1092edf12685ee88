"""A page whose code fails makes the build fail, with its name and the line."""

import contextlib
import io
import time
import traceback
from pathlib import Path
from typing import Any

from pages import BLOCK, run_page
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def _run_on_read(app: Sphinx, name: str, source: list[str]) -> None:
    page = Path(app.env.doc2path(name))
    if not app.config.run_code_of_pages or not BLOCK.search(source[0]):
        return
    start = time.perf_counter()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            run_page(page)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        lines = [f.lineno for f in frames if f.filename == str(page) and f.lineno]
        line = getattr(error, "lineno", None) if not lines else lines[-1]
        _log.warning(
            "the code of this page fails: %s: %s",
            type(error).__name__,
            error,
            location=(name, line),
            type="page_code",
        )
    _log.info(" [code ran %.1f s] ", time.perf_counter() - start, nonl=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Make it an extension."""
    app.add_config_value("run_code_of_pages", True, "", bool)
    app.connect("source-read", _run_on_read)
    return {"parallel_read_safe": True}
