"""Lists the models, data sets, metrics and segmenters that there are, one line each."""

from __future__ import annotations

import argparse

from interp import plugins

HELP = "models, data sets and metrics, one line each"


def options(sub: argparse.ArgumentParser) -> None:
    """None."""


def run(options: argparse.Namespace) -> None:
    """Prints the list."""
    print(listed())


def listed() -> str:
    """The models, data sets, metrics and segmenters there are, one line each."""
    lines = [
        f"shipped models: {', '.join(plugins.shipped()) or 'none here (they come with the repository)'}",
        "models: any folder or hub id of these families",
    ]
    for kind in plugins.KINDS:
        title = {"models": "", "datasets": "data sets"}.get(kind, kind)
        lines += [f"{title}:"] if title else []
        lines += [f"  {name:<18} {plugins.about(kind, name).splitlines()[0]}" for name in plugins.names(kind)]
    if (plugins.data_folder() / "mini-sam" / "config.json").is_file():
        lines += [f"  {'mini-sam':<18} The shipped SAM, trained on scenes; the default."]
    return "\n".join(lines)
