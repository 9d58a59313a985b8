"""One model of a comparison, measured: its rankings, and which things its own answers name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import interp
from interp.answer.recall import named_targets
from interp.comparison.result import CHOICES, Measured
from interp.models._identity import fingerprint, setup
from interp.ranking.result import Ranking
from interp.ranking.study import rank
from interp.types import Sample, Skip
from interp.work.halves import in_halves
from interp.work.parts import Work
from interp.work.samples import Batches, Repeatable
from interp.work.sharing import Several
from interp.work.store import Store, key_of


def measure(
    lmm: Any,
    samples: Repeatable,
    metrics: Sequence[Any] | None,
    settings: Sequence[tuple[str, str]],
    *,
    recall: bool,
    seed: int,
    batch: int,
    max_new_tokens: int,
    store: Store,
    progress: bool,
    **how: Any,
) -> Measured:
    """One model under each (normalise, query), the first being the main one; the first of them for the words."""
    options = {"seed": seed, "batch": batch, "max_new_tokens": max_new_tokens, "store": store, "progress": progress}
    rankings, several = dict[tuple[str, str], Ranking](), Several()
    for normalise, query in settings:
        found: Any = {"normalise": normalise, "query": query}
        rankings[normalise, query] = several(rank, lmm, samples, metrics, **found, **options, **how)
    told = several(_named, lmm, samples, batch, max_new_tokens, store) if recall else ({}, [])
    several.check()
    named, left = told
    main = rankings[settings[0]]
    first = main.phrases.loc[
        (main.phrases["metric"] == main.phrases["metric"].iloc[0]) & (main.phrases["heads"] == CHOICES[0])
    ]
    known = {skip.sample_id for skip in main.skipped}
    return Measured(
        name=str(getattr(lmm, "name", type(lmm).__name__)),
        layers=lmm.layers,
        heads_per_layer=lmm.heads,
        tables={setting: ranking.phrases for setting, ranking in rankings.items()},
        heads={setting: ranking.heads for setting, ranking in rankings.items()},
        scores=main.scores,
        words=first.reset_index(drop=True),
        named=named,
        skipped=(*main.skipped, *(skip for skip in left if skip.sample_id not in known)),
        manifest=main.manifest,
    )


def _named(
    lmm: Any, samples: Repeatable, batch: int, max_new_tokens: int, store: Store
) -> tuple[dict[str, np.ndarray], list[Skip]]:
    """Per image with targets, which of them the model's own answer names; and the images that it fails on."""
    settings = {
        "weights": fingerprint(getattr(lmm, "model", None)),
        "setup": setup(lmm),
        "model": str(getattr(lmm, "name", type(lmm).__name__)),
        "max_new_tokens": max_new_tokens,
        "version": interp.__version__,
    }
    work = Work(
        store, {"what": "named", **settings}, Batches(samples, batch),
        key=lambda group: key_of(settings, group).replace("scores", "answered"),
        compute=lambda group: _answered(lmm, [s for s in group if isinstance(s, Sample)], max_new_tokens),
    )  # fmt: skip
    found: dict[str, np.ndarray] = {}
    skipped: list[Skip] = []
    for arrays in work.in_order(lambda part: part.arrays):
        ids, each = arrays["ids"].tolist(), np.split(arrays["named"], np.cumsum(arrays["counts"])[:-1])
        found |= {name: named for name, named in zip(ids, each, strict=False) if len(named)}
        skipped += [Skip(name, str(why)) for name, why in zip(ids, arrays["failed"], strict=True) if why]
    return found, skipped


def _answered(lmm: Any, group: Sequence[Sample], max_new_tokens: int) -> dict[str, np.ndarray]:
    """Per sample which targets are named, or why it failed."""
    found = in_halves(group, lambda some: [*named_targets(lmm, some, max_new_tokens)])
    failed = [f"noun recall: {type(x).__name__}: {x}" if isinstance(x, Exception) else "" for x in found]
    named = [np.zeros(0, dtype=bool) if isinstance(x, Exception) else x for x in found]
    counts = np.array([len(hits) for hits in named], dtype=np.int64)
    told = {"ids": np.array([s.id for s in group], dtype=str), "failed": np.array(failed, dtype=str)}
    return {"named": np.concatenate([*named, np.zeros(0, dtype=bool)]), "counts": counts, **told}
