"""From a model, captures or a series to a page that can be touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from interp.answer.maps import Heads
from interp.contracts import Segmenter
from interp.emergence.timeline import Series
from interp.explorer.contents import contents, estimate
from interp.explorer.handle import Explorer
from interp.explorer.recording import WAYS, Asked, asked, peaks, recorded, taken_of_series
from interp.explorer.shown import Shown, Taken, shown_of
from interp.images import read_image
from interp.metrics._given import metrics_of
from interp.models._given import lmm_of
from interp.models._lmm import LMM
from interp.segmenters._load import load_segmenter
from interp.types import Capture, Sample

METRICS = ("pointing_game", "mass_in_mask", "image_mass", "spatial_entropy")
LIMIT = 15_000_000
"""Bytes of maps that a page takes in unless more are allowed."""


def explore(
    source: Any,
    image: Any = None,
    prompt: str | None = None,
    answer: str | None = None,
    *,
    words: Any = None,
    heads: Heads = "all",
    ways: Sequence[tuple[str, str]] = WAYS,
    metrics: Sequence[Any] = METRICS,
    segmenter: Segmenter | str | None = None,
    steps: Sequence[int] | None = None,
    limit: int = LIMIT,
    max_new_tokens: int = 128,
    progress: bool = True,
    lmm: LMM | None = None,
) -> Explorer:
    """A page to touch: click a word, see every head's map and score, click a head, see its map over the image.

    Args:
        source: an `LMM`, a `Series` (a slider over its checkpoints) or a `Capture`; or several models or captures.
        image: what was or is looked at: an image, or a `Sample`, whose masks give scores; or several.
        prompt, answer: see `interp.capture`; a sample brings its own.
        words: words of the answer to take in place of its noun phrases, as ``phrases`` of `interp.capture`; of
            samples also ``"targets"``, or a function of a sample, as ``phrases`` of `interp.rank`.
        heads: which heads the page shows; all, or a list of (layer, head) where all would be too much.
        ways: (query, weighting) to record, most wanted first.
        metrics: in any form that `interp.rank` takes; those that use masks also give a specificity.
        segmenter: loaded or by name; the page then shows the mask that a point at the map's peak gives.
        steps: of a series, which checkpoints; None: all sound ones.
        lmm: of a series, its model where it is loaded already; it has its weights again afterwards.
        limit: bytes that maps may take. What does not fit is left out, last ways first; `Explorer.left_out` says what.

    Raises:
        interp.explorer.contents.TooLarge: not even the first way of the phrases fits; with sizes and what to leave out.
        ValueError: bad input.

    >>> import interp
    >>> from interp.datasets import scenes
    >>> page = interp.explore(interp.load("mini-llava"), scenes.sample("test", 0), ways=[("predicting", "attention")])
    >>> page.heads  # what is picked on the page, once it is shown
    ()
    """
    found = metrics_of(metrics)
    several = list(source) if isinstance(source, list) else [source]
    several: list[Any] = [one if isinstance(one, Series | Capture) else lmm_of(one) for one in several]
    if several and all(isinstance(one, Capture) for one in several):
        taken = _given(several, image)
    else:
        images = list(image) if isinstance(image, list | tuple) else [image]
        questions = [asked(one, prompt, answer, words, max_new_tokens) for one in images]
        taken = _recorded(several, questions, list(ways), steps, progress, lmm)
    singly = sum(estimate(one, heads, True) for one in taken) <= limit
    views = [shown_of(one, singly) for one in taken]
    if segmenter is not None:
        loaded = load_segmenter(segmenter) if isinstance(segmenter, str) else segmenter
        views = _with_peaks(views, loaded)
    made = contents(views, found, heads, limit)
    if not singly:
        made["left_out"].append("tokens that are no phrases")
    return Explorer(made)


def _recorded(
    several: Sequence[Any],
    questions: Sequence[Asked],
    ways: list[tuple[str, str]],
    steps: Any,
    progress: bool,
    lmm: LMM | None,
) -> list[Taken]:
    """What models, or one series, attend to when they are asked."""
    if not ways:
        raise ValueError("ways is empty; expected at least one (query, weighting), e.g. ('predicting', 'attention')")
    if len(several) == 1 and isinstance(several[0], Series):
        series, own = several[0], lmm or several[0].load()
        return [t for question in questions for t in taken_of_series(own, series, question, ways, steps, progress)]
    if not several or not all(isinstance(model, LMM) for model in several):
        came = ", ".join(type(model).__name__ for model in several) or "an empty list"
        raise ValueError(f"cannot explore {came}; expected LMMs (interp.load, interp.wrap), a Series, or Captures")
    found = []
    for model in several:
        for question in questions:
            title = f"{model.name}: {question.name}" if question.name else model.name
            found.append(Taken(title, recorded(model, question, ways), question.image, question.targets))
    return found


def _given(captures: Sequence[Capture], image: Any) -> list[Taken]:
    """A panel for each capture; one image for all, or one for each."""
    images = list(image) if isinstance(image, list | tuple) else [image] * len(captures)
    if len(images) != len(captures) or any(one is None for one in images):
        raise ValueError(
            f"{len(captures)} captures need the image that they were made of, or as many images; got "
            f"{'none' if image is None else len(images)}: interp.explore(capture, image)"
        )
    found = []
    for capture, one in zip(captures, images, strict=True):
        known = (one.image, one.targets) if isinstance(one, Sample) else (read_image(one), ())
        title = f"{capture.sample_id or capture.answer[:40]} ({capture.query}, {capture.weighting})"
        found.append(Taken(title, [capture], *known))
    return found


def _with_peaks(views: Sequence[Shown], segmenter: Segmenter) -> list[Shown]:
    """The views with the segmenter's masks; an image is segmented once for each grid."""
    known: dict[Any, Any] = {}
    for view in views:
        key = _grid_on(view)
        if key not in known:
            known[key] = peaks(segmenter, view.image, view.grid)
    return [replace(view, peaks=known[_grid_on(view)], peaks_by=segmenter.name) for view in views]


def _grid_on(view: Shown) -> tuple[Any, ...]:
    return view.image.tobytes(), view.grid.box, view.grid.shape
