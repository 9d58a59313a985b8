"""Tables of ``interp compare``."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, METRICS, SHARE, Column, Table
from interp.report.columns.shared import (
    CHANCE,
    DIFFERENCE,
    FAVOURS,
    HEAD,
    IMAGE,
    MEAN,
    METRIC,
    NAMED,
    NULL,
    QUANTITY,
    RANK,
    REDUCTION,
    REDUCTIONS,
    SETTING,
    STATISTICS,
    TEST,
    VALUE,
)

MODEL = {"model": Column("the model's name")}
DEPTH = {"depth": Column("relative depth of the layer: 0 is the first, 1 the last", "", SHARE)}
COMPARED = {
    "models": Table(
        "a model",
        MODEL
        | {
            "layers": Column("layers of the language model", "layers", "1..∞"),
            "heads": Column("heads in each layer", "heads", "1..∞"),
            "phrases": Column("phrases that were scored", "phrases", COUNT),
            "paired": Column("phrases that both models have", "phrases", COUNT),
            "images": Column("images that those are of", "images", COUNT),
            "skipped": Column("samples that were left out", "samples", COUNT),
            "recall": Column("share of the targets that the model's own answers name", "", SHARE),
            "recall_low": Column("lower end of its 95 % interval over images", "", SHARE),
            "recall_high": Column("upper end of that interval", "", SHARE),
            "targets": Column("targets of that recall", "targets", COUNT),
        },
    ),
    "scores": Table(
        "a metric, model, setting and choice of heads, over the phrases that both models have",
        QUANTITY
        | METRIC
        | MODEL
        | SETTING
        | REDUCTION
        | {k: v for k, v in (MEAN | NULL | CHANCE | TEST).items() if k != "images"}
        | {
            "mean": Column("mean over those phrases", METRICS, ANY),
            "low": Column("lower end of its 95 % interval over images", METRICS, ANY),
            "high": Column("upper end of that interval", METRICS, ANY),
        },
        names=REDUCTIONS,
    ),
    "differences": Table(
        "a metric, contrast and choice of heads; every difference is paired, phrase by phrase",
        QUANTITY
        | METRIC
        | {
            "contrast": Column("what is varied"),
            "model": Column("the model it is varied in; empty where the models are compared"),
            **REDUCTION,
            "a_is": Column("what side a is"),
            "b_is": Column("what side b is"),
        }
        | DIFFERENCE
        | FAVOURS,
        names={
            "model": "B - A",
            "normalise": "less the answer's mean - as it is",
            "query": "predicting row - own row",
            "heads": "this choice of heads - all heads",
            "recall": "B - A of noun recall, over targets",
        },
    ),
    "layers": Table(
        "a model, metric and layer",
        MODEL
        | METRIC
        | {"layer": Column("the layer, from 0", "", COUNT)}
        | DEPTH
        | {
            "mean": Column("mean over its heads and the phrases", METRICS, METRICS),
            "low": Column("lower end of the 95 % interval over images", METRICS, METRICS),
            "high": Column("upper end of that interval", METRICS, METRICS),
            "best_mean": Column("mean of its best head, chosen on the other half of the images", METRICS, METRICS),
            "best_low": Column("lower end of the 95 % interval over images", METRICS, METRICS),
            "best_high": Column("upper end of that interval", METRICS, METRICS),
        }
        | NULL,
    ),
    "heads": Table("a model, setting, metric and head", MODEL | SETTING | METRIC | HEAD | DEPTH | STATISTICS | RANK),
    "layer_differences": Table(
        "a metric and layer: B - A of the mean over its heads; without rows where the models differ in layers",
        QUANTITY | METRIC | {"layer": Column("the layer, from 0", "", COUNT)} | DIFFERENCE | FAVOURS,
    ),
    "head_differences": Table(
        "a metric and head: B - A; without rows where the models differ in heads",
        QUANTITY | METRIC | HEAD | DIFFERENCE | FAVOURS,
    ),
    "phrases": Table(
        "a phrase, model, setting, metric and choice of heads",
        MODEL
        | SETTING
        | IMAGE
        | {
            "word": Column("by which phrases are paired: the phrase or its root, in lower case"),
            "occurrence": Column("which of the image's phrases with this word it is, from 0", "", COUNT),
        }
        | NAMED
        | VALUE,
        names=REDUCTIONS,
    ),
}
