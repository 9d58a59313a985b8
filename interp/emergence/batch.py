"""One checkpoint, measured batch by batch; its weights are put in place only if something must be computed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from interp.answer.capturing import captures
from interp.answer.maps import phrase_maps
from interp.answer.recall import named_targets
from interp.answer.targets import match_targets
from interp.emergence.points import Point
from interp.emergence.result import Example, Measurement
from interp.emergence.timeline import Series
from interp.ranking.batch import Batch, Plan
from interp.ranking.gathered import Words, gather
from interp.ranking.measure import score_batch
from interp.ranking.result import NothingToRank
from interp.types import Capture, Sample
from interp.work.halves import in_halves
from interp.work.parts import Group, Part, Work
from interp.work.samples import Batches, Repeatable
from interp.work.sharing import Several
from interp.work.store import Store, key_of, marked


@dataclass(frozen=True)
class Job:
    """What the checkpoints of a run have in common."""

    plan: Plan
    series: Series
    samples: Repeatable
    shown: list[Sample]
    settings: dict[str, Any]
    batch: int
    recall: bool
    store: Store


class Ready:
    """Puts the checkpoint's weights in place, once, and only if something must be computed with them."""

    def __init__(self, swap: Any, cache: Any, point: Point):
        self.swap, self.cache, self.point, self.used = swap, cache, point, 0

    def __call__(self) -> None:
        if not self.used:
            self.swap.to(self.point)
            if self.cache is not None:
                self.cache.refresh()
        self.used = 1


def measure(job: Job, point: Point, ready: Ready) -> tuple[Measurement, list[tuple[str, str]]]:
    several = Several()
    scored = several(_scored, job, point, ready)
    recalled = several(list, _work(job, point, ready, "recalled", partial(_recall, job))) if job.recall else []
    several.check()
    words, keys, losses = scored
    left = [(s.sample_id, f"step {point.step}: {s.reason}") for s in words.skipped]
    if not len(words):
        raise NothingToRank(f"no phrase could be scored: {left[0][1] if left else 'the data set is empty'}")
    found = gather(
        words, lambda i: _scores(job.store, keys[i]), job.plan.metrics, folder=getattr(job.store, "folder", None)
    )
    told = [row for p in recalled for row in zip(p.arrays["ids"].tolist(), p.arrays["named"].tolist(), strict=True)]
    named = {name: (hits, count) for name, (hits, count) in told if count}
    return Measurement(point.step, point.stage, found.scores, losses, named), left


def _scored(job: Job, point: Point, ready: Ready) -> tuple[Words, list[str], dict[str, float]]:
    """What is known of the batches' words, their keys in the store, and each image's loss."""
    words, keys, losses = Words(), list[str](), dict[str, float]()
    parts = _work(job, point, ready, "scores", lambda group: score_batch(job.plan, group, False))
    for key, batch in ((part.key, Batch.of(part.arrays)) for part in parts):
        words.add(batch)
        keys.append(key)
        losses |= batch.losses
    return words, keys, losses


def _scores(store: Store, key: str) -> Batch:
    """A batch of the store, again."""
    arrays = store.get(key)
    if arrays is None:
        raise LookupError(f"the store lost {key} while the run used it; start the run again, it goes on from the rest")
    return Batch.of(arrays)


def _work(job: Job, point: Point, ready: Ready, kind: str, compute: Any) -> Iterator[Part]:
    """Every batch's part of that kind, computed at the checkpoint if nobody has."""
    settings, batches = {**job.settings, "checkpoint": point.digest()}, Batches(job.samples, job.batch)

    def at_checkpoint(group: Group) -> dict[str, np.ndarray]:
        ready()
        return compute(group)

    points, each = [p.step for p in job.series.sound], batches.total
    work = Work(
        job.store, {"what": kind, **settings}, batches,
        key=lambda group: key_of(settings, group).replace("scores", kind),
        compute=at_checkpoint,
        first=points.index(point.step) * (each or 0),
        of=len(points) * each if each else None,
    )  # fmt: skip
    return work.in_order(lambda part: part)


def _recall(job: Job, group: Group) -> dict[str, np.ndarray]:
    """Per sample how many of its targets the model's own answer names, and of how many."""
    samples = [s for s in group if isinstance(s, Sample)]
    found = in_halves(samples, lambda some: [*named_targets(job.plan.lmm, some, job.plan.max_new_tokens)])
    counts = [[0, 0] if isinstance(named, Exception) else [int(named.sum()), len(named)] for named in found]
    named = np.array(counts, dtype=np.int64).reshape(-1, 2)
    return marked({"named": named, "ids": np.array([s.id for s in samples], dtype=str)}, bool(named.any()))


def example_maps(job: Job, point: Point, ready: Ready) -> Mapping[str, np.ndarray]:
    """The normalised maps of the shown samples' first phrases, all heads, in half precision."""
    if not job.shown:
        return {}
    shown = replace(job, samples=Repeatable(job.shown), batch=len(job.shown))
    (maps,) = _work(shown, point, ready, "maps", lambda group: _capture_examples(job))
    return maps.arrays


def _capture_examples(job: Job) -> dict[str, np.ndarray]:
    plan, arrays, words = job.plan, {}, {}
    results = captures(
        plan.lmm,
        job.shown,
        answers=plan.answers,
        batch=job.batch,
        query=plan.query,
        weighting=plan.weighting,
        phrases=plan.phrases,
    )
    for i, (sample, result) in enumerate(zip(job.shown, results, strict=True)):
        matched = match_targets(result.phrases, sample.targets) if isinstance(result, Capture) else []
        if matched and isinstance(result, Capture):
            which, mask = matched[0]
            maps = phrase_maps(result, plan.normalise, rows=plan.rows).maps[which]
            unit = maps.abs().amax((-1, -2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
            arrays |= {f"maps_{i}": (maps / unit).half().cpu().numpy(), f"unit_{i}": unit.cpu().numpy()}
            arrays |= {f"mask_{i}": np.asarray(mask), f"index_{i}": result.grid.token_index}
            words[i] = [result.phrases[which].text, list(map(float, result.grid.box)), list(result.layers)]
    return arrays | {"words": np.frombuffer(json.dumps(words).encode(), dtype=np.uint8)}


def examples_of(job: Job, maps: Mapping[int, Mapping[str, np.ndarray]]) -> list[Example]:
    from interp.types import PatchGrid

    found: dict[str, Example] = {}
    for step, arrays in maps.items():
        words = json.loads(bytes(arrays["words"]).decode()) if arrays else {}
        for i, (phrase, box, layers) in words.items():
            sample = job.shown[int(i)]
            grid = PatchGrid(arrays[f"index_{i}"], tuple(box))
            own = found.setdefault(sample.id, Example(sample, phrase, arrays[f"mask_{i}"], grid, {}, tuple(layers)))
            own.maps[step] = arrays[f"maps_{i}"].astype(np.float32) * arrays[f"unit_{i}"]
    return [example for example in found.values() if len(example.maps) == len(maps)]
