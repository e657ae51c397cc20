"""The documentation site: `make docs` builds it into build/docs, with warnings as errors."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE / "_ext")]

from mu_jax import __version__  # noqa: E402

project = "mu_jax"
author = "the authors of mu_jax"
version = release = __version__

extensions = ["sphinx.ext.autodoc", "myst_parser", "sphinx_copybutton"]
# Every module in _ext that has a `setup` is an extension.
extensions += sorted(
    p.stem for p in (HERE / "_ext").glob("*.py") if "\ndef setup(" in p.read_text()
)
exclude_patterns = ["_ext"]
nitpicky = True
# Types and functions of other packages: nothing is fetched to link to them.
_OTHERS = "jax|jaxlib|jaxtyping|numpy|np|optax|flax|nn|nnx|linen|collections|typing|types|pathlib|"
_OTHERS += "altair|cryptography|"
_OTHERS += "os|datetime|contextlib|dataclasses|grain|etils|epath|orbax|array_record|abc|enum|re"
nitpick_ignore_regex = [("py:.*", rf"({_OTHERS})(\..*)?")]

nitpick_ignore = [("py:class", "Group")]  # of rich

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 80
python_use_unqualified_type_names = True
python_display_short_literal_types = True
add_function_parentheses = False
toc_object_entries = False
pygments_style = "default"

html_theme = "sphinx_book_theme"
html_title = "mu_jax"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False
html_context = {"default_mode": "auto"}
html_theme_options = {
    "show_navbar_depth": 1,
    "navbar_start": [],
    "navbar_center": [],
    "navbar_end": [],
    "navbar_persistent": [],
    "show_toc_level": 2,
    "use_download_button": False,
    "use_fullscreen_button": False,
    "use_issues_button": False,
    "use_repository_button": False,
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
