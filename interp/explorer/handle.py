"""The explorer in a user's hands: shown in a notebook, saved as a page, asked which heads were picked."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.explorer import page
from interp.types import Head
from interp.work.files import write_bytes


class Explorer:
    """What `interp.explore` gives. In a notebook it shows itself; ``heads`` are those picked there."""

    def __init__(self, contents: Mapping[str, Any]):
        self.contents = contents
        self._widget: Any = None

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that are picked in the notebook, in the order in which they were; none before it is shown."""
        return () if self._widget is None else tuple(Head(*head) for head in self._widget.picked)

    @property
    def left_out(self) -> tuple[str, ...]:
        """What the limit of bytes did not let in, in words."""
        return tuple(self.contents["left_out"])

    def html(self, title: str = "interp: explorer") -> str:
        """The page, with everything in it."""
        return page.whole(self.contents, title)

    def save(self, path: str | Path, title: str = "interp: explorer") -> Path:
        """The path of the page, written whole or not at all."""
        write_bytes(Path(path), self.html(title).encode())
        return Path(path)

    @property
    def widget(self) -> Any:
        """The `anywidget` of the explorer, made when it is first asked for.

        Raises:
            ImportError: `anywidget` is not installed.
        """
        if self._widget is None:
            self._widget = _widget(json.dumps(self.contents, allow_nan=False))
        return self._widget

    def __repr__(self) -> str:
        panels = self.contents["panels"]
        megabytes = self.contents["bytes"] / 1e6
        words = sum(unit["phrase"] for unit in panels[0]["units"])
        return f"Explorer({len(panels)} panels, {words} phrases, {len(panels[0]['shown'])} heads, {megabytes:.1f} MB)"

    def _repr_mimebundle_(self, **options: Any) -> Any:
        """The widget where `anywidget` is installed; else the page in a frame, which hands no heads back."""
        try:
            return self.widget._repr_mimebundle_(**options)
        except ImportError:
            framed = html.escape(self.html(), quote=True)
            frame = f'<iframe sandbox="allow-scripts" srcdoc="{framed}" style="width: 100%; height: 820px; border: 0">'
            return {"text/plain": repr(self), "text/html": frame + "</iframe>"}


def _widget(contents: str) -> Any:
    try:
        import anywidget
        import traitlets
    except ImportError as error:
        raise ImportError("the explorer in a notebook needs anywidget: pip install 'interp[notebooks]'") from error

    class Widget(anywidget.AnyWidget):
        _esm = page.module()
        _css = page.styles()
        contents = traitlets.Unicode().tag(sync=True)
        picked = traitlets.List().tag(sync=True)

    return Widget(contents=contents)
