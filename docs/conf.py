"""The documentation site: ``sphinx-build -W --keep-going docs docs/_build/html``.

Nothing is fetched, neither by the build nor by the pages: equations are MathML, fonts
are the reader's own, and there are no links into other projects' inventories.
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

# The programs on the pages are tiny and run once: compiling them is most of the build.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import rnnjax  # noqa: E402  the checkout's, whichever is installed

project = "rnnjax"
author = "The rnnjax authors"
project_copyright = author
release = version = rnnjax.__version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "mathml",
    "name_links",
    "page_code",
    "public_names",
]
exclude_patterns = ["_build"]
nitpicky = False
default_role = "py:obj"
pages_of_bare_names = ["cells"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 4
suppress_warnings = ["myst.strikethrough"]

# Pages of code cells, which show what they print and draw; others run by page_code.
nb_execution_raise_on_error = True
nb_execution_timeout = 600
nb_merge_streams = True

autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 72
python_use_unqualified_type_names = True
add_module_names = False
toc_object_entries_show_parents = "hide"

pygments_style = "friendly"
pygments_dark_style = "github-dark"
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
copybutton_exclude = ".linenos, .go"

html_theme = "furo"
html_title = f"rnnjax {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_favicon = "_static/icon.svg"
html_logo = "_static/icon.svg"
html_math_renderer = "mathml"
html_copy_source = False
html_theme_options = {"sidebar_hide_name": False}
