"""What there is to choose from. Docstrings are read from the files, so that nothing heavy is imported."""

from __future__ import annotations

import ast
from importlib.util import find_spec
from pathlib import Path

from interp import plugins
from interp.shipped import data_folder, shipped


def listed() -> str:
    """The models, data sets, metrics and segmenters there are, one line each."""
    lines = [
        f"shipped models: {', '.join(shipped()) or 'none here (they come with the repository)'}",
        "models: any folder or hub id of these families",
    ]
    for kind, title in (
        ("models", ""),
        ("datasets", "data sets"),
        ("metrics", "metrics"),
        ("segmenters", "segmenters"),
    ):
        lines += [f"{title}:"] if title else []
        lines += [f"  {name:<18} {about(kind, name).splitlines()[0]}" for name in plugins.names(kind)]
    if (data_folder() / "mini-sam" / "config.json").is_file():
        lines += [f"  {'mini-sam':<18} The shipped SAM, trained on scenes; the default."]
    return "\n".join(lines)


def about(kind: str, name: str) -> str:
    """The plug-in's docstring, read without importing it."""
    plugins.check(kind, name)
    spec = find_spec(f"interp.{kind}.{name}")
    source = Path(spec.origin).read_text() if spec and spec.origin else ""
    return ast.get_docstring(ast.parse(source)) or "(no docstring)"
