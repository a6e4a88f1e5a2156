"""A drawing that a notebook shows by itself, in the colours of the page that it stands on."""

from __future__ import annotations

from base64 import b64encode
from html import escape
from os import PathLike
from typing import Any

from kvlab import files

# JupyterLab, VS Code and Sphinx say whether their page is dark, and an image follows its element's
# colour scheme. Where a notebook is not trusted yet the style is dropped: then the drawing follows
# the browser, on paper of its own, so that it can be read either way.
_FOLLOWS = (
    "<style>.kvlab-drawing{max-width:100%;height:auto}"
    '[data-jp-theme-light="true"] .kvlab-drawing,[data-theme="light"] .kvlab-drawing,'
    ".vscode-light .kvlab-drawing{color-scheme:light}"
    '[data-jp-theme-light="false"] .kvlab-drawing,[data-theme="dark"] .kvlab-drawing,'
    ".vscode-dark .kvlab-drawing{color-scheme:dark}</style>"
)


class Drawing:
    """A picture with a title that says what to see in it, and words for who cannot see it.

    `svg` is the picture as text, `title` its headline, `alt` what a screen reader says.
    """

    def __init__(self, svg: str, title: str, alt: str) -> None:
        self.svg, self.title, self.alt = svg, title, alt

    def save(self, path: str | PathLike[str]) -> None:
        """Writes the picture as an SVG file.

        Raises: OSError that names `path`.
        """
        files.write(path, self.svg)

    def __repr__(self) -> str:
        return f"Drawing({self.title!r})"

    def _repr_mimebundle_(self, **_kwargs: Any) -> dict[str, str]:
        """An image within HTML, which Jupyter shows in a notebook it does not trust as well."""
        image = b64encode(self.svg.encode()).decode()
        shown = (
            f'{_FOLLOWS}<img class="kvlab-drawing dark-light" alt="{escape(self.alt)}" '
            f'src="data:image/svg+xml;base64,{image}">'
        )
        return {"text/plain": repr(self), "text/html": shown, "image/svg+xml": self.svg}
