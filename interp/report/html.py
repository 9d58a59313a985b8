"""What all reports share: template, pictures, numbers in words."""

from __future__ import annotations

import base64
import math
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from interp.explorer.page import digest
from interp.report.run import Run
from interp.types import Head
from interp.work.files import write_bytes

LEVEL = 0.05


TOP = 10


REDUCTIONS = {
    "paper": "mean of all heads (paper)",
    "released": "head H−2 of each layer (released code)",
    "top1": "best head, chosen on the other half",
    "top3": "mean of the best 3, chosen on the other half",
    "top10": "mean of the best 10, chosen on the other half",
}


FEW = 16
"""Images below which the 95 % intervals cover visibly less than they say, in simulations."""


def few(images: int) -> str:
    """A warning where there are few images; else nothing."""
    if images >= FEW:
        return ""
    more = " Below 5 images nothing can be significant." if images < 5 else ""
    return f"Only {images} images: intervals and p-values rest on very little.{more}"


def number(value: Any) -> str:
    """Three decimals below 10; a dash where undefined."""
    if value is None or not math.isfinite(value):
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"


def p_value(value: Any) -> str:
    """Three decimals, or that it is below them; a dash where there is no test."""
    if value is None or not math.isfinite(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def skipped_rows(run: Run) -> list[dict[str, Any]]:
    """Reasons with how often and for which samples, commonest first."""
    skipped = run.manifest["skipped"]
    reasons = Counter(skip["reason"] for skip in skipped)
    return [
        {"reason": reason, "count": count, "ids": [s["sample_id"] for s in skipped if s["reason"] == reason][:5]}
        for reason, count in reasons.most_common(20)
    ]


def ordered(heads: pd.DataFrame, metric: str) -> list[dict[Any, Any]]:
    """The metric's heads, best first by what the ranking chose heads by, undefined ones last."""
    rows = heads.loc[heads["metric"] == metric, :]
    return rows.sort_values("rank", kind="stable").to_dict("records")


def head_name(row: Mapping[Any, Any]) -> str:
    return str(Head(int(row["layer"]), int(row["head"])))


def interval(row: Any) -> str:
    return f"{number(row['low'])} to {number(row['high'])}"


def first_line(doc: str) -> str:
    """The first sentence of a documentation, without its markup."""
    return re.sub(r"(\*+|`+)(\S(?:.*?\S)?)\1", r"\2", doc.splitlines()[0] if doc else "")


def words(metric: str) -> str:
    return metric.replace("_", " ")


def picture(run: Run, name: str) -> str | None:
    path = run.folder / "figures" / f"{name}.png"
    return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode() if path.exists() else None


def template(name: str) -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("interp.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(f"{name}.html.jinja")


def write(run: Run, page: str) -> Path:
    return save(run.folder / "report.html", page)


def save(path: Path, page: str) -> Path:
    """The path of the written page, which lets nothing in but its own scripts, styles and pictures."""
    write_bytes(path, sealed(page).encode())
    return path


def sealed(page: str) -> str:
    """The page with a policy under which no request leaves it and no script runs but those that it holds."""
    scripts = re.findall(r"<script(?: type=\"module\")?>(.*?)</script>", page, re.DOTALL)
    allowed = " ".join(f"'{digest(script)}'" for script in scripts) or "'none'"
    policy = f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src {allowed}"
    meta = f"<meta http-equiv=\"Content-Security-Policy\" content=\"{policy}; base-uri 'none'; form-action 'none'\">"
    return page.replace('<meta charset="utf-8">', f'<meta charset="utf-8">\n{meta}', 1)
