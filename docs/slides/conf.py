"""How Sphinx makes slides of what `write.py` has written: `make slides`."""

project = "compresslab"
author = "the compresslab authors"
language = "en"
extensions = ["myst_parser", "sphinx_revealjs", "sphinx-mathjax-offline"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
# A slide follows a section's heading, whatever level it has in a lab; links lead to labs, which are not here.
suppress_warnings = ["myst.header", "myst.xref_missing"]
revealjs_static_path = ["_static"]
revealjs_css_files = ["slides.css"]
revealjs_style_theme = "white"
revealjs_script_conf = {"hash": True, "slideNumber": True, "width": 1100, "height": 700}
revealjs_script_plugins = [
    {"name": "RevealNotes", "src": "revealjs/plugin/notes/notes.js"},
]
