"""Tables of ``interp rank``."""

from __future__ import annotations

from interp.report.columns.kinds import COUNT, SHARE, TAU, Column, Table
from interp.report.columns.shared import HEAD, METRIC, RANK, REDUCTION, REDUCTIONS, SAMPLE, STATISTICS, VALUE, WORDS

RANKED = {
    "heads": Table("a metric and head", METRIC | HEAD | STATISTICS | RANK),
    "reductions": Table("a metric and choice of heads", METRIC | REDUCTION | STATISTICS, names=REDUCTIONS),
    "phrases": Table("a phrase, metric and choice of heads", SAMPLE | WORDS | VALUE, names=REDUCTIONS),
    "localization": Table(
        "a head, best first: the ranking that needs no masks (arXiv 2503.06287)",
        HEAD
        | {
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
            "mask_free": Column("Kendall's tau-b over heads between mean and frequency of localization", "", TAU),
        },
    ),
}
