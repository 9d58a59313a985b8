"""The study's table: means with intervals, differences to the paper's mean of all heads, and the same as Markdown."""

from __future__ import annotations

import pandas as pd

from interp.statistics import intervals

MEASURES = {"iou": "mean IoU", "recall": "recall at IoU 0.5", "point": "point in target"}


def summarise(phrases: pd.DataFrame, seed: int) -> pd.DataFrame:
    """A row per model, segmenter, heads, normalisation and measure: mean, 95 % interval over images, and the difference
    to the paper's mean of all heads on the same phrases with its interval."""
    rows = []
    by = ["model", "segmenter", "heads", "normalise"]
    for _, own in phrases.groupby(["model", "segmenter"], sort=False):
        paper = own[(own["heads"] == "all heads (paper)") & (own["normalise"] == "answer")]
        for names, some in own.groupby(by, sort=False):
            clusters = list(some["image_id"])
            for measure_name in MEASURES:
                values, base = some[measure_name].to_numpy(float), paper[measure_name].to_numpy(float)
                low, high = intervals.bootstrap(values, clusters, seed=seed)
                worse, better = intervals.bootstrap(values - base, clusters, seed=seed, rates=False)
                rows.append(
                    {
                        **dict(zip(by, names, strict=True)),
                        "measure": measure_name,
                        "value": float(values.mean()),
                        "low": float(low),
                        "high": float(high),
                        "difference": float((values - base).mean()),
                        "difference_low": float(worse),
                        "difference_high": float(better),
                        "phrases": len(values),
                        "images": some["image_id"].nunique(),
                    }
                )
    return pd.DataFrame(rows)


def markdown(table: pd.DataFrame) -> str:
    """The table as Markdown: one line per variant, measures as columns with their intervals."""
    lines = []
    for (model, segmenter), own in table.groupby(["model", "segmenter"], sort=False):
        images, phrases = own["images"].iloc[0], own["phrases"].iloc[0]
        lines += [f"### {model}, masks by {segmenter} ({phrases} phrases of {images} images)", ""]
        lines += ["| heads | less the answer's mean | " + " | ".join(MEASURES.values()) + " | IoU less the paper's |"]
        lines += ["| --- | --- |" + " --- |" * (len(MEASURES) + 1)]
        for (heads, normalise), some in own.groupby(["heads", "normalise"], sort=False):
            at = some.set_index("measure")
            cells = [f"{at.value[m]:.3f} ({at.low[m]:.3f}..{at.high[m]:.3f})" for m in MEASURES]
            gap = f"{at.difference['iou']:+.3f} ({at.difference_low['iou']:+.3f}..{at.difference_high['iou']:+.3f})"
            said = {"answer": "yes", "none": "no", "": "–"}[str(normalise)]
            lines.append(f"| {heads} | {said} | {' | '.join(cells)} | {gap} |")
        lines.append("")
    return "\n".join(lines)
