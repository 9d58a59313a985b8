"""Tables of ``interp effects``."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, METRICS, SHARE, TAU, Column, Table
from interp.report.columns.shared import DIFFERENCE, HALVES, HEAD, IMAGE, MEAN, RANK, STATISTICS, WORDS

MEASURE = {"measure": Column("what is measured: logprob, rank, grounding or named")}
MEASURES = {
    "logprob": "fall of the log-probability of the root word's tokens, nats",
    "rank": "rise of the first token's rank, places",
    "grounding": "fall of the mean grounding of all heads in the layers above, the metric's unit",
    "named": "1: named no more, -1: now named, when the model answers by itself (only with --generate)",
}
KEYS = {"keys": Column("which patches are hidden from the word's row: own, others, background or sinks")}
HIDDEN = {
    "own": "those of the word's own thing",
    "others": "as many of other things",
    "background": "as many on which no thing lies",
    "sinks": "the patches outside the thing that the answer attends to most",
}
HARM = MEAN | {
    "n": Column("phrases for which the measure is defined", "phrases", COUNT),
    "mean": Column("mean harm over those phrases: positive where the model does worse", METRICS, ANY),
    "low": Column("lower end of its 95 % bootstrap interval, images drawn anew", METRICS, ANY),
    "high": Column("upper end of that interval", METRICS, ANY),
}
RANDOM = {
    "random": Column("random sets of as many heads in each of its layers, or all there are", "sets", COUNT),
    "rank_among_random": Column("place of the set's mean harm among theirs, 1 for the strongest", "", "1..∞"),
    "p_random": Column("(1 + random sets of at least that harm) / (1 + random sets)", "", SHARE),
}
EFFECTS = {
    "heads": Table(
        "a metric or measure and head: the grounding metric first, then what taking the head away does",
        {"metric": Column("the grounding metric, or a measure of harm: logprob, rank, grounding, named")}
        | HEAD
        | STATISTICS
        | {"null": Column("grounding: as in rank; harm: mean harm of other heads of the layer", METRICS, METRICS)}
        | RANK,
        names=MEASURES,
    ),
    "correlation": Table(
        "a measure",
        MEASURE
        | {
            "rho": Column("Spearman's rho over heads between mean grounding and mean harm", "", TAU),
            "low": Column("lower end of its 95 % interval, for other heads and other images", "", TAU),
            "high": Column("upper end of that interval", "", TAU),
            "heads": Column("heads for which both are defined", "heads", COUNT),
            "rho_within": Column("the same correlation of ranks within each layer, pooled", "", TAU),
            "low_within": Column("lower end of its 95 % interval, for other heads and other images", "", TAU),
            "high_within": Column("upper end of that interval", "", TAU),
            "reliability": Column("highest rho that noise leaves; rho / reliability corrects for it", "", SHARE),
        },
        names=MEASURES,
    ),
    "sets": Table(
        "a measure and set of the best heads, taken away together",
        MEASURE
        | {"unit": Column("the set: top1, top3 or top10"), "size": Column("heads in it", "heads", "1..∞")}
        | HARM
        | {"null": Column("mean harm of random sets of as many heads in each of its layers", METRICS, ANY)}
        | HALVES
        | RANDOM
        | {f"gap_{k}": DIFFERENCE[k] for k in ("difference", "low", "high", "p", "p_corrected")}
        | {"gap_difference": Column("harm of the set less the mean of these sets, phrase by phrase", METRICS, ANY)},
        names=MEASURES,
    ),
    "edges": Table(
        "a measure and kind of patches, hidden from the word's row in all layers",
        MEASURE | KEYS | {"patches": Column("how many are hidden on average", "patches", COUNT)} | HARM,
        names=MEASURES | HIDDEN,
    ),
    "contrasts": Table(
        "a measure and kind of patches: own patches (b) less that kind (a), over phrases with as many of both",
        MEASURE | KEYS | DIFFERENCE,
        names=MEASURES | HIDDEN,
    ),
    "layers": Table(
        "a measure, kind of patches and layer: hidden in that layer alone",
        MEASURE | KEYS | {"layer": Column("the layer, from 0", "", COUNT)} | HARM,
        names=MEASURES | HIDDEN,
    ),
    "phrases": Table(
        "a phrase: what the plain model does",
        IMAGE
        | WORDS
        | {
            "logprob": Column("log-probability of the root word's tokens", "nats", "-∞..0"),
            "rank": Column("rank of the first of them among all tokens", "", "1..∞"),
            "grounding": Column("mean of the metric over all heads", METRICS, METRICS),
            "named": Column("1 if the model's own answer names it, else 0; NaN where none was generated", "", SHARE),
            "patches": Column("patches of the own thing that are hidden in the study of edges", "patches", COUNT),
        },
    ),
}
