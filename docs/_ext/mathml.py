"""Equations as MathML, which browsers draw themselves: no script, font or network."""

import re
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx


def _inline(translator: Any, node: nodes.math) -> None:
    translator.body.append(convert(node.astext()))
    raise nodes.SkipNode


def _display(translator: Any, node: nodes.math_block) -> None:
    text = node.astext()
    outside = re.sub(r"\\begin\{(\w+)\}.*?\\end\{\1\}", "", text, flags=re.DOTALL)
    several = "&" in outside or r"\\" in outside
    tex = rf"\begin{{split}}{text}\end{{split}}" if several else text
    translator.body.append(
        f'<div class="equation" tabindex="0">{convert(tex, display="block")}</div>'
    )
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict[str, Any]:
    """Make it an extension."""
    app.add_html_math_renderer("mathml", (_inline, None), (_display, None))
    return {"parallel_read_safe": True}
