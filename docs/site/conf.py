"""How Sphinx makes the site from what `assemble.py` has gathered: `make site`.

Where a repository is known, each lab has buttons that open it elsewhere:

    COMPRESSLAB_REPOSITORY   its address, such as that of a fork; without it there are no buttons
    COMPRESSLAB_BRANCH       main by default
    COMPRESSLAB_HUB          a JupyterHub's address, if a class has one (by nbgitpuller)
"""

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

project = "compresslab"
author = "the compresslab authors"
html_title = "compresslab"
language = "en"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx-mathjax-offline",
]
# Notebooks are shown as they were executed; nothing runs here.
nb_execution_mode = "off"
nb_merge_streams = True
nb_mime_priority_overrides = [("html", "text/plain", 90)]
myst_enable_extensions = ["dollarmath", "colon_fence", "attrs_inline"]
myst_heading_anchors = 4
myst_dmath_double_inline = True
# Notebooks have their own heading levels, and their links are those of JupyterLab.
# A type such as `bytes` may have the name of an attribute.
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "ref.python"]

autodoc_default_options = {"members": True, "member-order": "bysource", "show-inheritance": False}
autodoc_typehints = "signature"
# A page's table of contents names modules; with every function in it the site takes a third longer.
toc_object_entries = False
autodoc_mock_imports: list[str] = []
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False

html_theme = "sphinx_book_theme"
html_static_path = ["_static"]
html_css_files = ["compresslab.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_navbar_depth": 1,
    "home_page_in_toc": True,
    "use_download_button": True,
    "use_fullscreen_button": False,
}

repository = os.environ.get("COMPRESSLAB_REPOSITORY", "").rstrip("/")
if repository:
    hub = os.environ.get("COMPRESSLAB_HUB", "").rstrip("/")
    html_theme_options |= {
        "repository_url": repository,
        "repository_branch": os.environ.get("COMPRESSLAB_BRANCH", "main"),
        "path_to_docs": "",
        "use_repository_button": True,
        "launch_buttons": {
            "notebook_interface": "jupyterlab",
            **({"jupyterhub_url": hub} if hub else {}),
            **(
                {"colab_url": "https://colab.research.google.com"} if "github" in repository else {}
            ),
        },
    }

default_role = "code"


def plain_text(
    app: object, what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Docstrings are written for readers of the code: a module's keeps its layout, bars are bars."""
    if what == "module":
        lines[:] = ["::", "", *(f"   {line}" for line in lines), ""]
    else:
        lines[:] = [plain(line) for line in lines]


def plain(line: str) -> str:
    """A line whose bars are bars, and whose single star is no emphasis that is never closed."""
    line = line.replace("|", "\\|")
    return line.replace("*", "\\*") if line.count("*") == 1 else line


def of_page(app: object, page: str, template: str, context: dict, doctree: object) -> None:
    """What a page says of itself: its language, and where its lab runs without installing anything."""
    if page.startswith("labs-zh/") or page.endswith(".zh"):
        context["language"] = "zh-CN"
    host, _, place = repository.removeprefix("https://").partition("/")
    if page.startswith(("labs/", "labs-zh/")) and host == "github.com":
        context.setdefault("header_buttons", []).append(
            {
                "type": "link",
                "url": f"https://codespaces.new/{place}",
                "tooltip": "A machine of your own in the browser, with everything in it",
                "text": "Codespaces",
                "icon": "fas fa-cloud",
                "label": "codespaces-button",
            }
        )


def setup(app: object) -> None:
    """Before napoleon reads the sections, and after the theme has made its buttons."""
    # It adds a file to the pages, and does not say that this can be done for several at once.
    app.extensions["sphinx-mathjax-offline"].parallel_read_safe = True
    app.connect("autodoc-process-docstring", plain_text, priority=400)
    app.connect("html-page-context", of_page, priority=900)
