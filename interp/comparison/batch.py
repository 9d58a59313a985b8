"""One model of a comparison, measured: its rankings, and which things its own answers name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

import interp
from interp.answer.recall import named_targets
from interp.comparison.result import CHOICES, Measured
from interp.models._identity import fingerprint, setup
from interp.ranking.result import Ranking
from interp.ranking.study import rank
from interp.types import Sample, Skip
from interp.work.ahead import ahead
from interp.work.halves import in_halves
from interp.work.samples import Again
from interp.work.store import Store, key_of


def measure(
    lmm: Any,
    samples: Callable[[], Iterator[Sample | Skip]],
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
    """One model under each (normalise, query), the first being the main one; ``samples`` starts the data set anew."""
    options = {"seed": seed, "batch": batch, "max_new_tokens": max_new_tokens, "store": store, "progress": progress}
    rankings: dict[tuple[str, str], Ranking] = {}
    for normalise, query in settings:
        found: Any = {"normalise": normalise, "query": query}
        rankings[normalise, query] = rank(lmm, Again(samples), metrics, **found, **options, **how)
    main = rankings[settings[0]]
    first = main.phrases.loc[
        (main.phrases["metric"] == main.phrases["metric"].iloc[0]) & (main.phrases["heads"] == CHOICES[0])
    ]
    named, left = _named(lmm, samples, batch, max_new_tokens, store) if recall else ({}, [])
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
    lmm: Any, samples: Callable[[], Iterator[Sample | Skip]], batch: int, max_new_tokens: int, store: Store
) -> tuple[dict[str, np.ndarray], list[Skip]]:
    """Per image with targets, which of them the model's own answer names; and the images that it fails on."""
    settings = {
        "weights": fingerprint(getattr(lmm, "model", None)),
        "setup": setup(lmm),
        "model": str(getattr(lmm, "name", type(lmm).__name__)),
        "max_new_tokens": max_new_tokens,
        "version": interp.__version__,
    }
    found: dict[str, np.ndarray] = {}
    skipped: list[Skip] = []
    readable = (s for s in samples() if isinstance(s, Sample))
    for group in ahead(iter(lambda: list(islice(readable, batch)), [])):
        key = key_of(settings, group).replace("scores", "named")
        arrays = store.get(key)
        if arrays is None:
            arrays = _packed(_answered(lmm, group, max_new_tokens))
            store.put(key, arrays)
        each = np.split(arrays["named"], np.cumsum(arrays["counts"])[:-1])
        found |= {s.id: named for s, named in zip(group, each, strict=True) if len(named)}
        skipped += [Skip(s.id, str(why)) for s, why in zip(group, arrays["failed"], strict=True) if why]
    return found, skipped


def _answered(lmm: Any, group: Sequence[Sample], max_new_tokens: int) -> list[np.ndarray | str]:
    """Per sample which targets are named, or why it failed."""
    found = in_halves(group, lambda some: [*named_targets(lmm, some, max_new_tokens)])
    return [f"noun recall: {type(x).__name__}: {x}" if isinstance(x, Exception) else x for x in found]


def _packed(answers: Sequence[np.ndarray | str]) -> dict[str, np.ndarray]:
    named = [np.zeros(0, dtype=bool) if isinstance(answer, str) else answer for answer in answers]
    failed = [answer if isinstance(answer, str) else "" for answer in answers]
    counts = np.array([len(hits) for hits in named], dtype=np.int64)
    return {"named": np.concatenate(named), "counts": counts, "failed": np.array(failed, dtype=str)}
