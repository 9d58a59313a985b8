"""Tables of ``interp segment`` and of the four tasks of ``interp evaluate``."""

from __future__ import annotations

from interp.report.columns.kinds import ANY, COUNT, SHARE, Column, Table
from interp.report.columns.shared import IMAGE, SAMPLE, WORDS

FAILED = {"failed": Column("why the model gave nothing that can be scored (it counts as a miss); else empty")}
IOU = Column("overlap of found and true mask: intersection over union", "", SHARE)
SUMMARY = {
    "measure": Column("the measure's name"),
    "value": Column("its value over the data set", "the measure's", "0..10"),
    "low": Column("lower end of the 95 % bootstrap interval over images; NaN where it is no mean", "", "0..10"),
    "high": Column("upper end of that interval", "", "0..10"),
    "n": Column("of how many phrases, masks or samples it is", "", COUNT),
    "unit": Column("what n counts"),
    "note": Column("what a reader must know of it"),
}


def _summary(**names: str) -> Table:
    return Table("a measure", SUMMARY, "csv", names)


SEGMENTED = {
    "phrases": Table(
        "a phrase",
        SAMPLE
        | {
            "phrase": WORDS["phrase"],
            "root": WORDS["root"],
            "x": Column("first point prompt, from the left; NaN where there is none", "pixels", COUNT),
            "y": Column("first point prompt, from the top; NaN where there is none", "pixels", COUNT),
            "area": Column("share of the image that its mask covers", "", SHARE),
            "confidence": Column("the segmenter's own estimate of the mask's IoU; NaN where it makes none", "", ANY),
        },
    )
}
GCG = {
    "samples": Table(
        "a sample",
        IMAGE
        | {
            "answer": Column("what the model said"),
            "true_phrases": Column("phrases with a true mask", "phrases", COUNT),
            "found_phrases": Column("phrases of the answer with a mask", "phrases", COUNT),
            "recalled": Column(
                "true phrases that count as recalled, as released; NaN without encoder", "phrases", COUNT
            ),
            "miou": Column("mean IoU of the pairs of found and true masks", "", SHARE),
            **FAILED,
            "cider": Column("CIDEr of the caption", "", "0..10"),
        },
    ),
    "phrases": Table(
        "a true phrase",
        IMAGE
        | {
            "phrase": Column("the true phrase"),
            "best_iou": Column("highest IoU of any found mask with its own", "", SHARE),
            "recalled": Column("1 if it counts as recalled, as released; NaN without encoder", "", SHARE),
            "recalled_corrected": Column("the same, where a pair that fails does not end the count", "", SHARE),
        },
    ),
    "summary": _summary(
        ap50="COCO's average precision at IoU 0.5, one category",
        miou="mean IoU of pairs, mean over images",
        mask_recall="share of the true phrases with IoU and similarity of at least 0.5, as released",
        mask_recall_corrected="the same, going on after a pair that fails",
        meteor="METEOR of the captions, 0..1",
        cider="CIDEr of the captions, 0..10",
    ),
}
INSTANCES = {
    "samples": Table(
        "a sample",
        IMAGE
        | {
            "answer": Column("what the model said"),
            "instances": Column("true instances", "instances", COUNT),
            "phrases": Column("phrases of the answer with a mask", "phrases", COUNT),
            "matched": Column("those of them with a category and a point", "phrases", COUNT),
            "hits": Column("those whose point lies in their category's masks", "phrases", COUNT),
            **FAILED,
        },
    ),
    "phrases": Table(
        "a phrase of the answer",
        IMAGE
        | {
            "phrase": WORDS["phrase"],
            "root": WORDS["root"],
            "category": Column("the category that it was matched to; empty if to none"),
            "x": Column("its point, from the left", "pixels", COUNT),
            "y": Column("its point, from the top", "pixels", COUNT),
            "hit": Column("1 if the point lies in the category's masks, else 0; NaN if not matched", "", SHARE),
        },
    ),
    "summary": _summary(
        ap="COCO's average precision over IoU 0.50:0.95",
        ap50="at IoU 0.5",
        ap75="at IoU 0.75",
        ap_small="of instances below 32² pixels",
        ap_medium="of 32² to 96² pixels",
        ap_large="of more than 96² pixels",
        pacc="share of the matched phrases whose point is a hit",
        categories_named="share of each image's categories that some phrase was matched to",
    ),
}
PAIR = {
    "intersection": Column("pixels that both masks cover", "pixels", COUNT),
    "union": Column("pixels that either covers", "pixels", COUNT),
    "iou": IOU,
    "box_iou": Column("IoU of the boxes around them", "", SHARE),
}
REFERRING = {
    "samples": Table("an expression", IMAGE | {"phrase": Column("the expression")} | PAIR | FAILED),
    "phrases": Table("an expression", IMAGE | {"phrase": Column("the expression")} | PAIR),
    "summary": _summary(
        **{
            "ciou": "sum of intersections over sum of unions",
            "giou": "mean IoU",
            "precision@0.5": "share with a mask IoU of at least 0.5",
            "box_accuracy@0.5": "share with a box IoU of at least 0.5",
        }
    ),
}
NARRATIVE = {
    "samples": Table(
        "a narrative",
        IMAGE
        | {
            "phrases": Column("annotated phrases", "phrases", COUNT),
            "iou": Column("mean IoU of its phrases", "", SHARE),
            **FAILED,
        },
    ),
    "phrases": Table(
        "an annotated phrase",
        IMAGE
        | {
            "phrase": Column("the annotated phrase"),
            "iou": IOU,
            "thing": Column("true: a thing, false: stuff, missing where the data set does not say"),
            "plural": Column("true: several, false: one, missing where the data set does not say"),
        },
    ),
    "summary": _summary(
        average_recall="area under recall over IoU thresholds, all phrases",
        average_recall_things="of things",
        average_recall_stuff="of stuff",
        average_recall_singular="of phrases that mean one thing",
        average_recall_plural="of phrases that mean several",
    ),
}
