"""The build fails where a public name has no docstring or stands on no API page."""

from typing import Any

from public import undocumented
from sphinx.application import Sphinx
from sphinx.util import logging

_log = logging.getLogger(__name__)


def _check(app: Sphinx, env: Any) -> None:
    documented = {
        name
        for name, entry in env.domains["py"].objects.items()
        if name.startswith("rnnjax") and entry.objtype not in ("module", "attribute")
    }
    for sentence in undocumented(documented):
        _log.warning("%s", sentence, type="public_names")


def setup(app: Sphinx) -> dict[str, Any]:
    """Make it an extension."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
