"""The explorer as HTML: one file that asks for nothing from anywhere, or a piece of another page."""

from __future__ import annotations

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

_HERE = Path(__file__).parent / "static"
_START = (
    'mount(document.getElementById("explorer"), JSON.parse(document.getElementById("contents").textContent), '
    "{link: true});"
)


@cache
def module() -> str:
    """The ES module: ``mount(element, contents, options)``, and ``render`` as `anywidget` calls it."""
    return (_HERE / "explorer.js").read_text(encoding="utf-8")


@cache
def styles() -> str:
    """The module's style sheet."""
    return (_HERE / "explorer.css").read_text(encoding="utf-8")


def whole(contents: Mapping[str, Any], title: str) -> str:
    """A page by itself. Its policy lets nothing in but what it holds: no request can leave it."""
    body = styles() + "\nbody { margin: 0; padding: 16px; background: var(--ix-back, Canvas); }\n"
    script = script_of()
    policy = f"default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; style-src '{digest(body)}'"
    policy += f"; script-src '{digest(script)}'"
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{body}</style>\n</head>\n<body>\n"
        f'{data_of(contents)}<script type="module">{script}</script>\n</body>\n</html>\n'
    )


def piece(contents: Mapping[str, Any]) -> str:
    """The explorer as a part of another page; once a page."""
    return f'<style>{styles()}</style>\n{data_of(contents)}<script type="module">{script_of()}</script>\n'


def data_of(contents: Mapping[str, Any]) -> str:
    """Where the explorer will stand, and what it shows, as data that no browser runs."""
    text = json.dumps(contents, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    safe = text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    return f'<div id="explorer"></div>\n<script type="application/json" id="contents">{safe}</script>\n'


def script_of() -> str:
    """The module, and the line that starts it."""
    return f"{module()}\n{_START}\n"


def digest(text: str) -> str:
    """What a Content-Security-Policy lets a script or style in by."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
