"""Measures every checkpoint of a series on the same images and words: what `interp emerge` computes.

The store holds one entry per checkpoint and batch, under a key that changes with whatever can change its scores. A
killed run goes on at the batch where it was; a checkpoint that comes later costs only itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, cast

import numpy as np
import torch
from tqdm import tqdm

import interp
from interp import batches, plugins
from interp.batches import Batch, Plan
from interp.capturing import captures
from interp.contracts import Metric
from interp.emergence import Emergence, Measurement, emergence
from interp.frozen import inputs_cache, vision_cache
from interp.maps import phrase_maps
from interp.naming import named_targets
from interp.nulls import MaskPool, draw
from interp.phrases import match_targets
from interp.ranking import NothingToRank, check, join, repeatable
from interp.stores import Memory, Store, key_of, setup
from interp.timeline import Point, Series, digest_of
from interp.types import Capture, Query, Sample, Skip, Weighting

METRICS = ("pointing_game", "average_precision")
HELD = 2 << 30
"""Bytes of images and masks that are kept in memory between checkpoints; a larger data set is read anew for each."""


@dataclass(frozen=True)
class Example:
    """One phrase of one image: its maps for every head at each step, NaN at a step that has none."""

    sample: Sample
    phrase: str
    mask: np.ndarray
    grid: Any
    maps: dict[int, np.ndarray]


@dataclass(frozen=True)
class Emerged:
    """The tables, the examples' maps per step, and what was left out: (checkpoint or sample, reason)."""

    tables: Emergence
    examples: list[Example]
    skipped: list[tuple[str, str]]
    computed: int


@dataclass(frozen=True)
class _Job:
    """What the checkpoints of a run have in common."""

    plan: Plan
    series: Series
    samples: Callable[[], Iterator[Sample | Skip]]
    shown: list[Sample]
    settings: dict[str, Any]
    batch: int
    recall: bool
    store: Store


def emerge(
    lmm: Any,
    series: Series,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[str] = METRICS,
    samples: int | None = None,
    *,
    answers: Literal["reference", "generated"] = "reference",
    normalise: Literal["answer", "none"] = "answer",
    query: Query = "predicting",
    weighting: Weighting = "attention",
    recall: bool = False,
    examples: int = 3,
    seed: int = 0,
    batch: int = 8,
    nulls: int = 8,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
) -> Emerged:
    """Every metric for every head at every sound checkpoint, and when grounding appears (`interp.emergence`).

    ``lmm`` is the series' model, at whichever checkpoint; it has its weights again afterwards. ``recall`` lets the
    model answer at each checkpoint and counts the targets that it names. All else as for `interp.rank`.

    Raises:
        interp.ranking.NothingToRank: no checkpoint could be measured; with the reasons.
        interp.plugins.UnknownName: no metric of that name.
    """
    check(answers, normalise, samples, batch, nulls, weighting)
    found = {name: cast(Metric, plugins.get("metrics", name)) for name in dict.fromkeys(metrics)}
    again = _held(repeatable(dataset, samples))
    ids = [s.sample_id if isinstance(s, Skip) else s.id for s in again()]
    if len(set(ids)) < len(ids):
        raise ValueError("two samples have one id; ids tell images apart, give each its own")
    pool = MaskPool.of(s for s in again() if isinstance(s, Sample))
    base = series.base_folder()
    settings = {
        "base": digest_of(sorted([*base.glob("*.safetensors"), *base.glob("shared.json")])),
        "numbers": [str(lmm.model.dtype), lmm.device.type, setup(lmm)],
        "metrics": list(found),
        "how": [answers, normalise, query, weighting, seed, nulls, max_new_tokens],
        "pool": pool.digest(),
        "version": interp.__version__,
    }
    plan = Plan(lmm, found, pool, answers, normalise, query, seed, nulls, max_new_tokens, weighting, {})
    job = _Job(
        plan,
        series,
        again,
        _shown(again(), examples, seed),
        settings,
        batch,
        recall,
        Memory() if store is None else store,
    )
    return _emerge(job, progress)


def _emerge(job: _Job, progress: bool) -> Emerged:
    measured, maps, skipped, computed = [], {}, [], 0
    lmm = job.plan.lmm
    with job.series.swap(lmm) as swap, inputs_cache(lmm), vision_cache(lmm.model) as cache:
        bar = tqdm(job.series.sound, desc="checkpoints", unit="checkpoint", disable=not progress)
        for point in bar:
            bar.set_postfix_str(f"step {point.step}")
            ready = _Ready(swap, cache, point)
            try:
                measurement, left = _measure(job, point, ready)
                maps[point.step] = _example_maps(job, point, ready)
            except (ValueError, OSError) as error:
                swap.skipped[point.step] = f"{type(error).__name__}: {error}"
                continue
            measured.append(measurement)
            skipped += left
            computed += ready.used
        skipped += [(f"checkpoint {step}", reason) for step, reason in sorted(swap.skipped.items())]
    if not measured:
        raise NothingToRank("no checkpoint could be measured: " + "; ".join(f"{a}: {b}" for a, b in skipped[:5]))
    return Emerged(emergence(measured, seed=job.plan.seed), _examples(job, maps), skipped, computed)


class _Ready:
    """Puts the checkpoint's weights in place, once, and only if something must be computed with them."""

    def __init__(self, swap: Any, cache: Any, point: Point):
        self.swap, self.cache, self.point, self.used = swap, cache, point, 0

    def __call__(self) -> None:
        if not self.used:
            self.swap.to(self.point)
            if self.cache is not None:
                self.cache.refresh()
        self.used = 1


def _measure(job: _Job, point: Point, ready: _Ready) -> tuple[Measurement, list[tuple[str, str]]]:
    settings = {**job.settings, "checkpoint": point.digest()}
    done, named = [], {}
    for group in _cut(job.samples(), job.batch):
        key = key_of(settings, group)
        done.append(Batch.of(_stored(job, key, ready, lambda group=group: batches.score_batch(job.plan, group, False))))
        if job.recall:
            arrays = _stored(job, f"recall-{key}", ready, lambda group=group: _recall(job, group))
            ids = [s.id for s in group if isinstance(s, Sample)]
            named |= {i: (int(h), int(n)) for i, (h, n) in zip(ids, arrays["named"], strict=True) if n}
    scored = [b for b in done if len(b)]
    left = [(s.sample_id, f"step {point.step}: {s.reason}") for b in done for s in b.skipped]
    if not scored:
        raise NothingToRank(f"no phrase could be scored: {left[0][1] if left else 'the data set is empty'}")
    scores = {name: join(scored, name, metric) for name, metric in job.plan.metrics.items()}
    losses = {image: loss for b in done for image, loss in b.losses.items()}
    return Measurement(point.step, point.stage, scores, losses, named), left


def _stored(
    job: _Job, key: str, ready: _Ready, compute: Callable[[], dict[str, np.ndarray]]
) -> Mapping[str, np.ndarray]:
    """What the store has under the key, computed at the checkpoint and put there if it has nothing."""
    arrays = job.store.get(key)
    if arrays is None:
        ready()
        arrays = compute()
        job.store.put(key, arrays)
    return arrays


def _recall(job: _Job, group: Sequence[Sample | Skip]) -> dict[str, np.ndarray]:
    """Per sample how many of its targets the model's own answer names, and of how many."""
    samples = [s for s in group if isinstance(s, Sample)]
    found = named_targets(job.plan.lmm, samples, job.plan.max_new_tokens)
    counts = [[int(named.sum()), len(named)] for named in found]
    return {"named": np.array(counts, dtype=np.int64).reshape(-1, 2)}


def _example_maps(job: _Job, point: Point, ready: _Ready) -> Mapping[str, np.ndarray]:
    """The normalised maps of the shown samples' first phrases, all heads, in half precision."""
    if not job.shown:
        return {}
    key = key_of({**job.settings, "checkpoint": point.digest()}, job.shown).replace("scores", "maps")
    return _stored(job, key, ready, lambda: _capture_examples(job))


def _capture_examples(job: _Job) -> dict[str, np.ndarray]:
    plan, arrays, words = job.plan, {}, {}
    results = captures(
        plan.lmm, job.shown, answers=plan.answers, batch=job.batch, query=plan.query, weighting=plan.weighting
    )
    for i, (sample, result) in enumerate(zip(job.shown, results, strict=True)):
        matched = match_targets(result.phrases, sample.targets) if isinstance(result, Capture) else []
        if matched and isinstance(result, Capture):
            which, mask = matched[0]
            maps = phrase_maps(result, plan.normalise).maps[which]
            unit = maps.abs().amax((-1, -2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            arrays |= {f"maps_{i}": (maps / unit).half().cpu().numpy(), f"unit_{i}": unit.cpu().numpy()}
            arrays |= {f"mask_{i}": np.asarray(mask), f"index_{i}": result.grid.token_index}
            words[i] = [result.phrases[which].text, list(map(float, result.grid.box))]
    return arrays | {"words": np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)}


def _examples(job: _Job, maps: Mapping[int, Mapping[str, np.ndarray]]) -> list[Example]:
    from interp.types import PatchGrid

    found: dict[str, Example] = {}
    for step, arrays in maps.items():
        words = json.loads(bytes(arrays["words"]).decode()) if arrays else {}
        for i, (phrase, box) in words.items():
            sample = job.shown[int(i)]
            grid = PatchGrid(arrays[f"index_{i}"], tuple(box))
            own = found.setdefault(sample.id, Example(sample, phrase, arrays[f"mask_{i}"], grid, {}))
            own.maps[step] = arrays[f"maps_{i}"].astype(np.float32) * arrays[f"unit_{i}"]
    return [example for example in found.values() if len(example.maps) == len(maps)]


def _shown(samples: Iterable[Sample | Skip], count: int, seed: int) -> list[Sample]:
    """Samples with a target to look at, drawn by their ids."""
    with_target = [s for s in samples if isinstance(s, Sample) and s.targets] if count else []
    return sorted(with_target, key=lambda s: draw(seed, "example", s.id).random())[:count]


def _held(again: Callable[[], Iterator[Sample | Skip]]) -> Callable[[], Iterator[Sample | Skip]]:
    """The same samples, from memory if they fit."""
    kept, size = [], 0
    for sample in again():
        if isinstance(sample, Sample):
            size += sample.image.nbytes + sum(t.mask.nbytes for t in sample.targets)
        if size > HELD:
            return again
        kept.append(sample)
    return lambda: iter(kept)


def _cut(samples: Iterator[Sample | Skip], batch: int) -> Iterator[list[Sample | Skip]]:
    while group := list(islice(samples, batch)):
        yield group
