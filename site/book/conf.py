"""How Sphinx makes the book's pages: nothing runs, nothing is fetched from elsewhere."""

import re
from pathlib import Path

import kvlab
from kvlab.shell.site import examples

project = "kvlab"
html_title = "kvlab, a book that runs"
version = release = kvlab.__version__
extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx_copybutton",
    "sphinx-mathjax-offline",
]  # fmt: skip
html_theme = "furo"
html_static_path = ["static"]
html_css_files = ["book.css"]
html_copy_source = False
html_show_copyright = False
default_role = "code"
nb_execution_mode = "off"  # chapters are stored with what they printed, and a test runs them
nb_ipywidgets_js = {}  # a panel's first picture is stored beside it
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4
copybutton_selector = "div.cell_input pre, div.highlight-bash pre, div.highlight-python pre"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}

EXAMPLES = examples(Path(__file__).parent / "docs" / "examples")


def as_blocks(_app, _what, _name, _obj, _options, lines):
    """Docstrings are written to be read in a terminal: fences become blocks, each line of
    `Shapes:`, `Raises:`, `Source:` and `Differs:` a paragraph."""
    told, fenced = [], False
    for line in lines:
        line = re.sub(r"(`[^`]*`)|\|", lambda m: m[1] or r"\|", line)  # no substitution: |K|
        if line.strip().startswith("```"):
            fenced = not fenced
            told += ["", ".. code-block:: python", ""] if fenced else [""]
        elif fenced:
            told.append("   " + line)
        elif re.match(r"(Shapes|Raises|Source|Differs|Returns): ", line):
            told += ["", re.sub(r"^(\w+):", r"**\1:**", line)]
        else:
            told.append(line)
    lines[:] = told


def with_example(_app, _what, name, of, _options, lines):
    """Beneath a public name's docstring its example, wherever it is described."""
    last = name.rpartition(".")[2]
    own = f"kvlab.{last}" if last in kvlab.__all__ and getattr(kvlab, last) is of else name
    if found := EXAMPLES.get(own):
        lines += ["", "**Example.** " + found.when.replace("\n", " ")]
        for kind, text in (("python", found.code), ("text", found.printed)):
            lines += ["", f".. code-block:: {kind}", ""]
            lines += ["   " + line for line in text.splitlines()]
        lines.append("")


def setup(app):
    app.connect("autodoc-process-docstring", as_blocks)
    app.connect("autodoc-process-docstring", with_example)
