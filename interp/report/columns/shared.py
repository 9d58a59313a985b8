"""Columns that tables of several commands have; described here, once."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, METRICS, SHARE, Column, P

METRIC = {"metric": Column("the metric's name (`interp list`)")}
HEAD = {
    "layer": Column("layer of the head, from 0", "", COUNT),
    "head": Column("its number in the layer, from 0", "", COUNT),
}
SAMPLE = {"sample_id": Column("the sample's id in the data set")}
IMAGE = SAMPLE | {"image_id": Column("the image's id: samples that share one are drawn together in intervals")}
MEAN = {
    "n": Column("phrases for which the metric is defined", "phrases", COUNT),
    "images": Column("images that those phrases are of", "images", COUNT),
    "mean": Column("mean over those phrases", METRICS, METRICS),
    "low": Column("lower end of the 95 % bootstrap interval of the mean, images drawn anew", METRICS, METRICS),
    "high": Column("upper end of that interval", METRICS, METRICS),
}
NULL = {"null": Column("mean score of the same maps on masks of other images of similar area", METRICS, METRICS)}
CHANCE = {"chance": Column("mean score of a map without information on masks of this area", METRICS, METRICS)}
TEST = {
    "p": Column("one-sided sign-flip test over images: better on the own masks than on the null masks", "", P),
    "p_corrected": Column("the same, corrected for all rows of this metric (max-T)", "", P),
}
HALVES = {
    "half_a": Column("mean over the first half of the images (split by seed and image id)", METRICS, METRICS),
    "half_b": Column("mean over the second half", METRICS, METRICS),
}
SPECIFIC = {
    "specificity": Column("mean specificity over phrases with a partner: 0 does not know the word", METRICS, ANY),
    "specificity_low": Column("lower end of its 95 % interval, images drawn anew", METRICS, ANY),
    "specificity_high": Column("upper end of that interval", METRICS, ANY),
    "p_specific": Column("sign-flip test over images that it is above 0, corrected for all rows of this metric", "", P),
    "pairs": Column("pairs of named things of one image that it rests on", "pairs", COUNT),
    "specificity_a": Column("mean specificity over the first half of the images", METRICS, ANY),
    "specificity_b": Column("mean specificity over the second half", METRICS, ANY),
}
STATISTICS = MEAN | CHANCE | NULL | TEST | HALVES | SPECIFIC
"""What `interp.statistics.summary.statistics` gives for every head or reduction: a new one is described here, once."""
RANK = {
    "higher_is_better": Column("whether a higher mean is better"),
    "rank": Column("place by what heads are chosen by (specificity where there is one), 1 is the best", "", "1..∞"),
}
QUANTITY = {"quantity": Column("specificity, or score: the metric on the own mask")}
DIFFERENCE = {
    "n": Column("pairs for which both sides are defined", "pairs", COUNT),
    "images": Column("images that those pairs are of", "images", COUNT),
    "a": Column("mean of side a over those pairs", METRICS, ANY),
    "b": Column("mean of side b over those pairs", METRICS, ANY),
    "difference": Column("b - a, mean over the pairs", METRICS, ANY),
    "low": Column("lower end of its 95 % bootstrap interval, images drawn anew", METRICS, ANY),
    "high": Column("upper end of that interval", METRICS, ANY),
    "p": Column("two-sided sign-flip test over images", "", P),
    "p_corrected": Column("the same, corrected for all rows of one metric and contrast (max-T)", "", P),
}
FAVOURS = {"favours": Column("a or b, whichever is better, where the interval leaves 0 out and p < 0.05; else nothing")}
REDUCTION = {"heads": Column("which heads' mean map it is: paper, released, top1, top3 or top10")}
REDUCTIONS = {
    "paper": "mean of all heads",
    "released": "mean of head H-2 of each layer",
    "top1": "the best head by this metric, chosen on the half of the images that the phrase's image is not in",
    "top3": "mean of the best three, chosen likewise",
    "top10": "mean of the best ten, chosen likewise",
}
WORDS = {
    "phrase": Column("the noun phrase, as it stands in the answer"),
    "root": Column("its root word"),
    "tokens": Column("tokens of the root word", "tokens", "1..∞"),
    "area": Column("share of the image that the phrase's mask covers", "", SHARE),
}
NAMED = WORDS | {
    "mention": Column("how often one of its things has been named in the answer, this time included", "", "1..∞"),
    "kind": Column("what tells it before it is said: free (nothing), attribute, ..., again; empty: not known"),
    "partners": Column(
        "other named things of its image, of the same kind, named by as many tokens (one, several)", "", COUNT
    ),
}
VALUE = {
    "half": Column("a or b: which half of the images this one belongs to"),
    **METRIC,
    **REDUCTION,
    "value": Column("the phrase's score", METRICS, METRICS),
    "null": Column("mean score of the same map on masks of other images", METRICS, METRICS),
    "chance": Column("score of a map without information on a mask of this area", METRICS, METRICS),
    "specificity": Column("mean over its partners of own and other maps and masks; NaN without one", METRICS, ANY),
}
SETTING = {
    "normalise": Column("answer: less the mean over the answer's tokens; none: attention as it is"),
    "query": Column("predicting: the row before the word's token; self: the token's own row"),
}
