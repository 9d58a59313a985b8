"""A ranking of heads from maps that were made elsewhere: by another program, of another kind of model, by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

import interp
from interp.answer.maps import coverage
from interp.masks import read_mask
from interp.ranking.asked import metrics_asked
from interp.ranking.batch import Batch, Maps, Plan
from interp.ranking.gathered import Words
from interp.ranking.reductions import score_top
from interp.ranking.result import TOP, Ranking
from interp.ranking.scored import Prepared, score_prepared
from interp.ranking.study import check, check_kinds, headline
from interp.ranking.tables import ranking_of
from interp.statistics.nulls import MaskPool, stack
from interp.types import By, PatchGrid, PhraseMaps, Sample, Target

_Own = Mapping[str, Any]


def score(
    maps: Any,
    masks: Sequence[Any],
    words: Sequence[str],
    images: Sequence[Any] | None = None,
    metrics: Sequence[Any] | None = None,
    *,
    tokens: Sequence[int] | None = None,
    seed: int = 0,
    nulls: int = 8,
    by: By | None = None,
    layers: tuple[int, ...] = (),
    name: str = "maps",
) -> Ranking:
    """A `Ranking` as `interp.rank` makes it (nulls, intervals, halves, specificity) of maps that are there already.

    Args:
        maps: one for each word and head, Float[word layer head row col]; or as many of Float[layer head row col], whose
            rows and columns may differ; or `PhraseMaps`, one after the other. They are taken as they are: metrics that
            ask for raw attention and those that ask for normalised maps get the same. The patches of a map cover the
            whole image, those of `PhraseMaps` what their grid says.
        masks: for each word that of the thing which it names, in any form that `interp.masks.read_mask` reads; those of
            one image are of one size.
        words: the words; of one image, the same word with the same mask is a mention of the same thing.
        images: for each word the name of its image: the unit of chance of all intervals and tests, and what tells which
            words are compared. None: each has an image of its own, and so no specificity.
        metrics: as for `interp.rank`.
        tokens: how many each word has in the model; words are compared within one and within several. None: one each.
        seed, nulls, by: as for `interp.rank`. ``layers``: their numbers, if they are not 0, 1, ...

    Raises:
        ValueError: not as many maps, masks, words and images, maps that are no numbers throughout, or masks of one
            image that differ in size.
        NothingToRank: no word at all.

    >>> maps = torch.zeros(4, 1, 2, 2, 2)  # 4 words, a layer, 2 heads, 2 x 2 patches
    >>> maps[:, 0, 0, 0, 0] = maps[::2, 0, 1, 0, 0] = maps[1::2, 0, 1, 1, 1] = 1.0  # head 1 knows the word
    >>> left, right = np.eye(2, dtype=bool) * [[1], [0]] > 0, np.eye(2, dtype=bool) * [[0], [1]] > 0
    >>> found = score(maps, [left, right] * 2, ["a cup", "a frog"] * 2, ["1", "1", "2", "2"], ["mass_in_mask"])
    >>> found.scores["mass_in_mask"].mean("specificity").tolist(), found.top(1)
    ([[0.0, 1.0]], [Head(layer=0, head=1)])
    """
    check("reference", "none", None, 1, nulls, "attention", seed)
    check_kinds("reference", "mean", "all", "none", by)
    each, grids = _each(maps)
    pictures = [f"word {i}" for i in range(len(words))] if images is None else [str(image) for image in images]
    counts = {"maps": len(each), "masks": len(masks), "words": len(words), "images": len(pictures)}
    counts |= {} if tokens is None else {"tokens": len(tokens)}
    if len(set(counts.values())) > 1:
        raise ValueError(f"expected one of each for each word; got {', '.join(f'{n} {k}' for k, n in counts.items())}")
    shapes = {tuple(m.shape[:2]) for m in each}
    if len(shapes) > 1:
        raise ValueError(f"maps of one model have as many layers and heads; got (layers, heads) {sorted(shapes)}")
    read = [read_mask(mask) for mask in masks]
    asked, found, sources = metrics_asked(metrics)
    places = {image: [i for i, own in enumerate(pictures) if own == image] for image in dict.fromkeys(pictures)}
    samples = [_sample(image, [words[i] for i in own], [read[i] for i in own]) for image, own in places.items()]
    pool, lmm = MaskPool.of(samples), SimpleNamespace(name=name)
    plan = Plan(lmm, found, pool, "reference", "none", "predicting", seed, nulls, 1)
    several = [1] * len(words) if tokens is None else list(tokens)
    done = []
    for place, own in enumerate(places.values()):
        chosen = SimpleNamespace(
            maps=[each[i] for i in own], grids=[grids[i] for i in own], masks=[read[i] for i in own],
            words=[words[i] for i in own], tokens=[several[i] for i in own], image=pictures[own[0]], place=place,
        )  # fmt: skip
        prepared = _prepared(plan, chosen)
        arrays = score_prepared(plan, prepared, skipped=[], losses={}, unmatched=[], layers=list(layers))
        done.append(arrays)
    manifest = {
        "model": name, "metrics": list(found), "sources": sources, "asked": asked, "headline": headline(asked, found),
        "seed": seed, "nulls": nulls, "samples": len(places), "pool": pool.digest(), "version": interp.__version__,
    }  # fmt: skip
    said = Words()
    for arrays in done:
        said.add(Batch.of(arrays, maps=False))
    return ranking_of(
        plan,
        said,
        lambda i: Batch.of(done[i], maps=False),
        lambda i, top, which: score_top(plan, Batch.of(done[i]), top, TOP, which),
        asked,
        by,
        manifest,
    )


def _each(maps: Any) -> tuple[list[Float[Tensor, "layer head row col"]], list[PatchGrid | None]]:
    """One map a word, in single precision, and its grid if it is known."""
    found, grids = [], []
    for own in [maps] if isinstance(maps, PhraseMaps) else maps:
        several = own.maps if isinstance(own, PhraseMaps) else torch.as_tensor(own)[None]
        if several.ndim != 5 or 0 in several.shape[1:]:
            raise ValueError(f"a word's maps are {tuple(several.shape[1:])}; expected (layer, head, row, col)")
        found += list(several.float())
        grids += [own.grid if isinstance(own, PhraseMaps) else None] * len(several)
    if any(not torch.isfinite(own).all() for own in found):
        raise ValueError("a map holds NaN or infinity; expected numbers for every word, layer, head and patch")
    return found, grids


def _sample(image: str, words: Sequence[str], masks: Sequence[Bool[np.ndarray, "height width"]]) -> Sample:
    sizes = {mask.shape for mask in masks}
    if len(sizes) > 1:
        raise ValueError(f"masks of image {image!r} have sizes (height, width) {sorted(sizes)}; expected one size")
    targets = tuple(Target(word, mask) for word, mask in zip(words, masks, strict=True))
    return Sample(image, np.zeros((*masks[0].shape, 3), dtype=np.uint8), "", targets=targets)


def _prepared(plan: Plan, own: Any) -> list[Prepared]:
    """An image's words, those that share a grid together."""
    size = own.masks[0].shape
    things: dict[bytes, int] = {}
    said: dict[int, int] = {}
    about = []
    for word, mask, count in zip(own.words, own.masks, own.tokens, strict=True):
        thing = things.setdefault(mask.tobytes(), len(things))
        said[thing] = said.get(thing, 0) + 1
        text = " ".join(word.split())
        about.append(
            {
                "sample_id": own.image, "image_id": own.image, "text": text, "root": text.split()[-1] if text else "",
                "tokens": int(count), "area": float(mask.mean()), "targets": [thing], "mention": said[thing],
                "kind": "",
            }
        )  # fmt: skip
    maps = torch.stack(own.maps) if len({m.shape for m in own.maps}) == 1 else None
    if maps is None:
        raise ValueError(f"maps of image {own.image!r} differ in rows and columns; expected one grid an image")
    whole = PatchGrid(np.zeros(maps.shape[-2:], dtype=np.int64), (0.0, 0.0, float(size[1]), float(size[0])))
    grid = own.grids[0] or whole
    nulls = [
        plan.pool.of_others(own.image, i, phrase["area"], size, grid, plan.nulls, plan.seed)
        for i, phrase in enumerate(about)
    ]
    usual = plan.pool.usual_places(own.image, size, grid).expand(len(about), -1, -1)
    masks = coverage(np.stack(own.masks), grid)
    rows = list(range(len(about)))
    found = Maps(rows, [0] * len(rows), maps, maps, masks, usual, stack(nulls, plan.nulls))
    return [Prepared(about, found, {}, ())]
