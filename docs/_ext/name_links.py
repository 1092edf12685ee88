"""Code in the text of a page that names something of ours leads to its entry.

Pages stay plain Markdown, with ```` `rnnjax.lstm(5, 8)` ```` as one reads it anywhere.
"""

import re
from typing import Any

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

_CALL = re.compile(r"(?P<name>[A-Za-z_][\w.]*)(\(.*\))?", re.DOTALL)


def _link(app: Sphinx, doctree: nodes.document, page: str) -> None:
    python = app.env.domains["py"]
    bare = page in app.config.pages_of_bare_names
    for literal in list(doctree.findall(nodes.literal)):
        match = _CALL.fullmatch(literal.astext())
        if match is None or isinstance(literal.parent, nodes.reference | pending_xref):
            continue
        name = match["name"]
        if bare and not name.startswith("rnnjax."):
            name = f"rnnjax.{name}"
        entry = python.objects.get(name)
        if entry is None or not name.startswith("rnnjax") or entry.docname == page:
            continue
        target = app.builder.get_relative_uri(page, entry.docname)
        link = nodes.reference("", "", internal=True, refuri=f"{target}#{name}")
        literal.replace_self(link)
        link += literal


def setup(app: Sphinx) -> dict[str, Any]:
    """Make it an extension."""
    app.add_config_value("pages_of_bare_names", [], "env", list)
    app.connect("doctree-resolved", _link)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
