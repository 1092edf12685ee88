"""Equations as MathML, which browsers draw themselves: no script, font or network."""

from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.util.math import wrap_displaymath


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    # A single line has neither & nor \\, and stays out of a table of one cell.
    text = node.astext()
    wrapped = "&" in text or r"\\" in text
    tex = wrap_displaymath(text, None, False) if wrapped else text
    translator.body.append(
        f'<div class="equation" tabindex="0">{convert(tex, display="block")}</div>'
    )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make it an extension."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True}
