"""Tables of ``interp rank``."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, METRICS, SHARE, TAU, Column, Table
from interp.report.columns.shared import (
    HEAD,
    IMAGE,
    MEAN,
    METRIC,
    NAMED,
    RANK,
    REDUCTION,
    REDUCTIONS,
    SPECIFIC,
    STATISTICS,
    VALUE,
)

RANKED = {
    "heads": Table("a metric and head", METRIC | HEAD | STATISTICS | RANK),
    "reductions": Table("a metric and choice of heads", METRIC | REDUCTION | STATISTICS, names=REDUCTIONS),
    "phrases": Table("a phrase, metric and choice of heads", IMAGE | NAMED | VALUE, names=REDUCTIONS),
    "rows": Table(
        "a kind of row, class of words, kind of phrase and head, for the headline metric",
        METRIC
        | {
            "rows": Column("which of a word's rows make its map: mean of all, first or last token"),
            "tokens": Column("words of one token, of several, or all"),
            "kind": Column("phrases of this kind (see the table phrases), or all"),
        }
        | HEAD
        | STATISTICS
        | RANK,
    ),
    "subsets": Table(
        "a choice of heads and set or weighting of phrases, for the headline metric",
        METRIC
        | REDUCTION
        | {"subset": Column("which phrases, or how they weigh")}
        | MEAN
        | {"low": Column("lower end of its 95 % interval over images", METRICS, ANY)}
        | {"high": Column("upper end of that interval", METRICS, ANY)}
        | {name: SPECIFIC[name] for name in ("specificity", "specificity_low", "specificity_high")},
        names=REDUCTIONS,
    ),
    "localization": Table(
        "a head, best first: the ranking that needs no masks (arXiv 2503.06287)",
        HEAD
        | {
            "frequency_as_published": Column("the same by the published code's threshold", "", SHARE),
            "frequency": Column("share of the phrases for which the head is among the first ten", "", SHARE),
            "image_mass": Column("mean share of attention that goes to the image", "", COUNT),
            "entropy": Column("mean spatial entropy of the map: 0 is one blob", "nats", COUNT),
            "rank": Column("place, 1 is the first", "", "1..∞"),
        },
    ),
    "agreement": Table(
        "a metric",
        METRIC
        | {
            "halves": Column("Kendall's tau-b over heads between the two halves of the images", "", TAU),
            "halves_specific": Column("the same of specificity", "", TAU),
            "mask_free": Column("Kendall's tau-b over heads between mean and frequency of localization", "", TAU),
        },
    ),
}
