"""What every widget of the book has in common: controls, one line of words, and a picture.

A panel's state is its traits. Those with a label are its controls, by their kind:

    turn = traitlets.Float(0.5, min=0, max=1).tag(sync=True, label="turn", by=0.05)      slider
    n = traitlets.Int(3, min=0).tag(sync=True, label="token", max="n_tokens")            slider
    scaled = traitlets.Bool(True).tag(sync=True, label="divide by the root of D")        tick
    which = traitlets.Enum(["keys", "values"], "keys").tag(sync=True, label="of")        choice

Python draws, so a panel can be moved from code and tested without a browser.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from pathlib import Path
from typing import Any

import anywidget
import traitlets


class Panel(anywidget.AnyWidget):
    """Controls above a picture; a subclass has traits, `words()` and `picture()`.

    Without a kernel the words and the picture of the current state stay, as SVG.
    """

    _esm = Path(__file__).parent / "panel.js"
    _css = Path(__file__).parent / "panel.css"

    panel = traitlets.Unicode("", read_only=True).tag(sync=True)
    controls = traitlets.List(read_only=True).tag(sync=True)
    status = traitlets.Unicode("", read_only=True).tag(sync=True)
    svg = traitlets.Unicode("", read_only=True).tag(sync=True)

    def __init__(self, **state: Any) -> None:
        """Set what the subclass needs to draw before calling this with its traits' first values."""
        super().__init__(**state)
        self.set_trait("panel", type(self).__name__)
        labelled = self.traits(label=lambda label: label is not None)
        order = [name for kind in type(self).__mro__ for name in vars(kind) if name in labelled]
        self.set_trait("controls", [_control(name, labelled[name]) for name in order])
        self.observe(self._draw, names=order)
        self._draw()

    def words(self) -> str:
        """One line that says what the picture shows."""
        raise NotImplementedError

    def picture(self) -> str:
        """The picture as SVG."""
        raise NotImplementedError

    def _draw(self, _change: Any = None) -> None:
        self.set_trait("status", self.words())
        self.set_trait("svg", self.picture())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.status})"

    def _repr_mimebundle_(self, **kwargs: Any) -> Any:
        bundle = super()._repr_mimebundle_(**kwargs)
        data, meta = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        # An image, since Jupyter strips inline SVG from a notebook that it does not trust yet.
        image = b64encode(self.svg.encode()).decode()
        words = escape(self.status)
        still = f'<p>{words}</p><img alt="{words}" src="data:image/svg+xml;base64,{image}">'
        return {**data, "text/plain": repr(self), "text/html": still}, meta


def _control(name: str, trait: traitlets.TraitType) -> dict[str, Any]:
    """Describe a trait's control to the page."""
    found = {
        "name": name,
        "label": trait.metadata["label"],
        "spoken": trait.metadata.get("spoken", ""),
    }
    if isinstance(trait, traitlets.Bool):
        return found | {"kind": "tick"}
    if isinstance(trait, traitlets.Enum):
        return found | {"kind": "choice", "options": list(trait.values)}
    return found | {
        "kind": "slider",
        "min": 0 if trait.min is None else trait.min,
        "max": trait.metadata.get("max", trait.max),
        "by": trait.metadata.get("by", 1),
    }
