"""What was said and marked in one image beside what is there: what every measure works on.

Masks are kept as run lengths, so that the records of a whole data set fit into memory and into a run folder.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.evaluation.overlap import RLE, to_rles
from interp.types import Phrase, Sample, Segmentation, Skip


@dataclass(frozen=True)
class Truth:
    """A thing that is in the image: its name or phrase, its mask, and what the data set says of it beyond that.

    ``crowd``: COCO's iscrowd. ``area`` in pixels and ``box`` (x0, y0, x1, y1) are the data set's own, None where it
    says none. ``thing`` and ``plural`` are those of panoptic narratives.
    """

    phrase: str
    mask: RLE
    crowd: bool = False
    area: float | None = None
    box: tuple[float, float, float, float] | None = None
    thing: bool | None = None
    plural: bool | None = None


@dataclass(frozen=True)
class Found:
    """A phrase of the answer with its mask, its point (x, y) or None, and the segmenter's score or None.

    ``category``: what a results file calls it; None where it is to be found from the phrase.
    """

    phrase: Phrase
    mask: RLE
    point: tuple[float, float] | None = None
    score: float | None = None
    category: str | None = None


@dataclass(frozen=True)
class Record:
    """One image with an answer. ``image_id`` names the image: samples that share one are drawn together in intervals.

    ``failed`` says why the model gave nothing that can be scored; such a record has no ``found`` and counts as a miss.
    ``captions`` are the reference captions.
    """

    sample_id: str
    image_id: str
    size: tuple[int, int]
    answer: str
    found: tuple[Found, ...]
    truths: tuple[Truth, ...]
    captions: tuple[str, ...] = ()
    failed: str | None = None
    image_key: int | str | None = None
    """The image's id in the data set's own type: numbers and texts have other orders, and COCO's AP depends on it."""

    @property
    def key(self) -> int | str:
        """The image's id in its own type; where the data set says none, the text."""
        return self.image_id if self.image_key is None else self.image_key

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Record:
        """What `to_json` wrote."""
        raw = json.loads(text)
        found = [
            Found(
                Phrase(**{**f["phrase"], "tokens": tuple(f["phrase"]["tokens"])}),
                f["mask"],
                None if f["point"] is None else (f["point"][0], f["point"][1]),
                f["score"],
                f["category"],
            )
            for f in raw["found"]
        ]
        truths = [Truth(**{**t, "box": None if t["box"] is None else tuple(t["box"])}) for t in raw["truths"]]
        plain = {"size": tuple(raw["size"]), "captions": tuple(raw["captions"])}
        return cls(**{**raw, **plain, "found": tuple(found), "truths": tuple(truths)})


def record(sample: Sample, segmentation: Segmentation | str) -> Record:
    """The sample beside the segmentation of its image, or beside the reason why there is none.

    What a data set knows beyond `Target` (``crowd``, ``area``, ``box``, ``thing``, ``plural``) and beyond `Sample`
    (``image_id``, ``captions``) is taken over where it is there.

    Raises:
        ValueError: masks that do not have the image's size.
    """
    size = (int(sample.image.shape[0]), int(sample.image.shape[1]))
    captions = getattr(sample, "captions", None) or (() if sample.answer is None else (sample.answer,))
    failed = segmentation if isinstance(segmentation, str) else None
    return Record(
        sample_id=sample.id,
        image_id=str(getattr(sample, "image_id", sample.id)),
        size=size,
        answer="" if isinstance(segmentation, str) else segmentation.answer,
        found=() if isinstance(segmentation, str) else _found(segmentation, size),
        truths=_truths(sample, size),
        captions=tuple(captions),
        failed=failed,
        image_key=getattr(sample, "image_id", None),
    )


def _truths(sample: Sample, size: tuple[int, int]) -> tuple[Truth, ...]:
    for target in sample.targets:
        if target.mask.shape != size:
            raise ValueError(
                f"the mask of {target.phrase!r} in {sample.id!r} is {target.mask.shape}, its image {size}; a mask has "
                "the image's pixels"
            )
    masks = _stack([target.mask for target in sample.targets], size)
    extra = [f.name for f in dataclasses.fields(Truth) if f.default is not dataclasses.MISSING]
    return tuple(
        Truth(target.phrase, rle, **{name: getattr(target, name) for name in extra if hasattr(target, name)})
        for target, rle in zip(sample.targets, masks, strict=True)
    )


def _found(segmentation: Segmentation, size: tuple[int, int]) -> tuple[Found, ...]:
    if len(segmentation.phrases) and segmentation.image_size != size:
        raise ValueError(
            f"masks of {segmentation.image_size} (height, width) for {segmentation.sample_id!r}, its image is {size}; "
            "segment the image that the sample holds"
        )
    points = [None if np.isnan(p).any() else (float(p[0]), float(p[1])) for p in segmentation.points]
    scores = [None if np.isnan(c) else float(c) for c in segmentation.confidence]
    rles = _stack(list(segmentation.masks), size)
    return tuple(Found(*parts) for parts in zip(segmentation.phrases, rles, points, scores, strict=True))


def _stack(masks: Sequence[Any], size: tuple[int, int]) -> list[RLE]:
    return to_rles(np.stack(masks)) if len(masks) else []


class NothingToScore(ValueError):
    """No sample of the data set has a mask, so nothing can be scored.

    What to do: take a data set or split with masks; the message counts what was skipped and gives the first reason.
    """


@dataclass(frozen=True)
class Collected:
    """The records in the data set's order, what was left out, and how many batches were computed in this call."""

    records: tuple[Record, ...]
    skipped: tuple[Skip, ...]
    computed: int
