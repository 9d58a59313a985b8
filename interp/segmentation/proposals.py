"""From a segmenter's proposals to one mask a phrase: which is taken, what is left out, what is the same thing twice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Bool, Float, Int

from interp.types import Proposals, Segmentation, Skip


def chosen_mask(proposals: Proposals, choice: str | int) -> Int[np.ndarray, " phrase"]:
    """Which of its candidates each phrase gets.

    Raises:
        ValueError: a number that the segmenter's candidates do not have.

    >>> three = Proposals(np.ones((1, 3, 2, 2), dtype=bool), np.array([[0.9, 0.8, 0.7]]))
    >>> chosen_mask(three, "last").tolist(), chosen_mask(three, "best").tolist()
    ([2], [0])
    """
    phrases, candidates = proposals.scores.shape
    if choice == "best":
        scores = np.where(np.isfinite(proposals.scores), proposals.scores, -np.inf)
        return scores.argmax(1) if phrases else np.zeros(0, int)
    number = candidates - 1 if choice == "last" else int(choice)
    if number >= candidates:
        raise ValueError(f"choice is {choice}, but the segmenter proposes {candidates} masks, numbered from 0")
    return np.full(phrases, number)


def confident(made: Segmentation, least: float | None) -> Segmentation:
    """Without the phrases whose confidence is below ``least``; those without a confidence stay."""
    if least is None:
        return made
    low = np.flatnonzero(made.confidence < least)
    reasons = [f"{made.phrases[i].text!r}: confidence {made.confidence[i]:.3f} is below {least}" for i in low]
    return _without(made, low, reasons)


def merged(made: Segmentation, how: str, above: float) -> Segmentation:
    """Phrases whose masks have an IoU above ``above`` are one thing; see `interp.segmentation.method.Method`."""
    if how == "off" or not len(made.masks):
        return made
    same = leaders(made.masks, made.confidence, above)
    if how == "share":
        return replace(made, masks=made.masks[same], confidence=made.confidence[same])
    gone = np.flatnonzero(same != np.arange(len(same)))
    reasons = [f"{made.phrases[i].text!r} has the mask of {made.phrases[same[i]].text!r}" for i in gone]
    return _without(made, gone, reasons)


def leaders(
    masks: Bool[np.ndarray, "phrase height width"], confidence: Float[np.ndarray, " phrase"], above: float
) -> Int[np.ndarray, " phrase"]:
    """Per phrase the one whose mask stands for its own: taken greedily by confidence, undefined last, then in order.

    >>> masks = np.array([[[1, 1, 1, 1]], [[1, 1, 1, 0]], [[0, 0, 0, 1]]], dtype=bool)
    >>> leaders(masks, np.array([0.8, 0.9, 0.7]), above=0.7).tolist()  # two are one thing; the second is surer
    [1, 1, 2]
    """
    flat = masks.reshape(len(masks), -1).astype(np.float32)
    both = flat @ flat.T
    area = flat.sum(1)
    union = area[:, None] + area - both
    iou = np.divide(both, union, out=np.zeros_like(both), where=union > 0)
    leader = np.full(len(masks), -1)
    for i in np.argsort(-np.nan_to_num(confidence, nan=-np.inf), kind="stable"):
        if leader[i] < 0:
            leader[(leader < 0) & (iou[i] > above)] = i
            leader[i] = i
    return leader


def _without(made: Segmentation, gone: np.ndarray, reasons: Sequence[str]) -> Segmentation:
    """The segmentation without these phrases."""
    stay = np.setdiff1d(np.arange(len(made.phrases)), gone)
    candidates = made.candidates and Proposals(made.candidates.masks[stay], made.candidates.scores[stay])
    return replace(
        made,
        phrases=tuple(made.phrases[i] for i in stay),
        points=made.points[stay],
        masks=made.masks[stay],
        confidence=made.confidence[stay],
        boxes=None if made.boxes is None else made.boxes[stay],
        candidates=candidates,
        skipped=(*made.skipped, *(Skip(made.sample_id, reason) for reason in reasons)),
    )
