"""Tables of ``interp emerge``."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, METRICS, SHARE, TAU, Column, P, Table
from interp.report.columns.shared import HEAD, METRIC, RANK, SPECIFIC, STATISTICS

STEP = {
    "step": Column("training step of the checkpoint", "steps", COUNT),
    "stage": Column("what was trained there"),
}
EMERGED = {
    "emergence": Table("a step, metric and head", STEP | METRIC | HEAD | STATISTICS | RANK),
    "onsets": Table(
        "a metric and head",
        METRIC
        | HEAD
        | {
            "onset": Column("step from which it looks at things, for sure and to the end; NaN if none", "steps", COUNT),
            "stage": Column("what was trained there; empty without an onset"),
            "onset_word": Column("step from which it tells the named thing likewise; NaN if none", "steps", COUNT),
            "stage_word": Column("what was trained there; empty without an onset"),
            "half_rise": Column("step at which the mean has come half its way; NaN without an onset", "steps", COUNT),
            "first": Column("mean at the first step", METRICS, METRICS),
            "final": Column("mean at the last step", METRICS, METRICS),
            "low": Column("lower end of the last mean's 95 % interval over images", METRICS, METRICS),
            "high": Column("upper end of that interval", METRICS, METRICS),
            "null": Column("the null at the last step", METRICS, METRICS),
            "p_corrected": Column("p of looking at things at the last step, corrected for all heads", "", P),
            **{n: SPECIFIC[n] for n in ("specificity", "specificity_low", "specificity_high", "p_specific")},
        },
    ),
    "layers": Table(
        "a metric and layer",
        METRIC
        | {
            "layer": Column("the layer, from 0", "", COUNT),
            "onset": Column("onset of its first head; NaN if none has one", "steps", COUNT),
            "heads": Column("how many of its heads have an onset", "heads", COUNT),
            "onset_word": Column("onset of its first head that tells the named thing; NaN if none", "steps", COUNT),
            "heads_word": Column("how many of its heads come to tell it", "heads", COUNT),
            "of": Column("how many heads it has", "heads", COUNT),
        },
    ),
    "steps": Table(
        "a step",
        STEP
        | {
            "images": Column("images with a caption loss", "images", COUNT),
            "loss": Column("caption loss: mean over images of -log p a token", "nats a token", COUNT),
            "loss_low": Column("lower end of its 95 % interval over images", "nats a token", COUNT),
            "loss_high": Column("upper end of that interval", "nats a token", COUNT),
            "recall": Column("share of the targets that the model's own answers name; NaN if not asked for", "", SHARE),
            "recall_low": Column("lower end of its 95 % interval over images", "", SHARE),
            "recall_high": Column("upper end of that interval", "", SHARE),
            "grounding_METRIC": Column("heads that look at things: corrected p <= 0.05 at this step", "heads", COUNT),
            "specific_METRIC": Column("heads that tell the named thing: p_specific <= 0.05 there", "heads", COUNT),
        },
    ),
    "agreement": Table(
        "a metric and pair of steps",
        METRIC
        | {
            "step_a": Column("the earlier step", "steps", COUNT),
            "step_b": Column("the later step", "steps", COUNT),
            "tau": Column("Kendall's tau-b of the heads' means", "", TAU),
            "overlap": Column("share of the k best heads of the one among those of the other", "", SHARE),
            "k": Column("how many best heads: 10, at most a quarter of all", "heads", "1..∞"),
        },
    ),
    "leaders": Table(
        "a metric, step and place",
        METRIC
        | {"step": STEP["step"], "place": Column("place by rank there, 1 is the best", "", "1..∞")}
        | HEAD
        | {name: STATISTICS[name] for name in ("mean", "low", "high", "null", "p_corrected")}
        | {n: SPECIFIC[n] for n in ("specificity", "specificity_low", "specificity_high", "p_specific")},
    ),
    "orders": Table(
        "a metric",
        METRIC
        | {
            "heads": Column("heads that come to tell the named thing", "heads", COUNT),
            "things_half": Column("step at which their score less its null has come half its way", "steps", COUNT),
            "words_half": Column("step at which their specificity has come half its way", "steps", COUNT),
            "lag": Column("the second less the first: negative where telling comes first", "steps", ANY),
            "low": Column("lower end of its 95 % interval, images drawn anew for both", "steps", ANY),
            "high": Column("upper end of that interval", "steps", ANY),
        },
    ),
    "lags": Table(
        "a metric",
        METRIC
        | {
            "heads": Column("heads with an onset", "heads", COUNT),
            "grounding_half": Column("step at which their mean grounding has come half its way", "steps", COUNT),
            "loss_half": Column("step at which the caption loss has come half its way", "steps", COUNT),
            "lag": Column("the first less the second: negative where grounding comes first", "steps", ANY),
            "low": Column("lower end of its 95 % interval, images drawn anew for both", "steps", ANY),
            "high": Column("upper end of that interval", "steps", ANY),
            "comes": Column("after or before the loss; empty where the interval holds 0"),
        },
    ),
}
