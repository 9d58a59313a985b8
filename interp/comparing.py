"""Two models on the same images and words: which one grounds better, by how much, and how sure that is.

Each model is ranked (`interp.rank`) under its main setting and once more for each effect that is asked for, with one
store, so that a killed run goes on. The tables are made in `interp.comparison`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, Literal

import numpy as np
import torch

import interp
from interp.comparison import CHOICES, EFFECTS, Comparison, Measured, compared
from interp.naming import named_targets
from interp.ranking import Ranking, check, rank, repeatable
from interp.stores import Memory, Store, fingerprint, key_of, setup
from interp.types import Query, Sample, Skip, Weighting


def compare(
    a: Any,
    b: Any,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[str] | None = None,
    samples: int | None = None,
    *,
    names: tuple[str, str] | None = None,
    effects: Sequence[str] = ("normalise", "query"),
    recall: bool = True,
    answers: Literal["reference", "generated"] = "reference",
    normalise: Literal["answer", "none"] = "answer",
    query: Query = "predicting",
    weighting: Weighting = "attention",
    seed: int = 0,
    batch: int = 8,
    nulls: int = 8,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
) -> Comparison:
    """Two models side by side on the same phrases, with paired intervals.

    Args:
        a, b: LMMs, or functions that load one: then model A is let go before B is loaded.
        names: what to call them; the default is their own names.
        effects: settings of which both sides are measured, each beside the main setting; each costs one more ranking.
        recall: let both models answer, and count the targets that they name.

    All else is as for `interp.rank`. With ``answers="reference"`` phrases are paired by their text, with
    ``"generated"`` by their root word, where both models say it of the same image. Models may differ in layers, heads
    and patches.

    Raises:
        interp.ranking.NothingToRank: one of the models has no phrase to score.
        NothingToCompare: they have none in common.
        ValueError, interp.plugins.UnknownName: as for `interp.rank`, or an unknown effect.
    """
    check(answers, normalise, samples, batch, nulls, weighting)
    if wrong := [e for e in effects if e not in EFFECTS]:
        raise ValueError(f"no effect {wrong[0]!r}; expected some of {', '.join(EFFECTS)}")
    if names and names[0] == names[1]:
        raise ValueError(f"both models are called {names[0]!r}; give them two names")
    again = repeatable(dataset, samples)
    how = {"answers": answers, "seed": seed, "batch": batch, "nulls": nulls, "max_new_tokens": max_new_tokens}
    how |= {"weighting": weighting}
    kept = Memory() if store is None else store
    settings = _settings((normalise, query), effects)
    measured = []
    for source in (a, b):
        lmm = source() if callable(source) and not hasattr(source, "layers") else source
        measured.append(measure(lmm, again, metrics, settings, recall=recall, store=kept, progress=progress, **how))
        del lmm, source
    given = names or _distinct(*(m.name for m in measured))
    return compared(measured[0], measured[1], given, answers=answers, seed=seed)


def measure(
    lmm: Any,
    samples: Callable[[], Iterator[Sample | Skip]],
    metrics: Sequence[str] | None,
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
        rankings[normalise, query] = rank(lmm, _Again(samples), metrics, **found, **options, **how)
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


class _Again:
    """A data set from a function that starts it anew."""

    def __init__(self, start: Callable[[], Iterator[Sample | Skip]]):
        self.start = start

    def __iter__(self) -> Iterator[Sample | Skip]:
        return self.start()


def _settings(main: tuple[str, str], effects: Sequence[str]) -> list[tuple[str, str]]:
    """The main (normalise, query) first, then those in which one of the two is the other one."""
    found = [main]
    if "normalise" in effects:
        found.append(("none" if main[0] == "answer" else "answer", main[1]))
    if "query" in effects:
        found.append((main[0], "self" if main[1] == "predicting" else "predicting"))
    return found


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
    while group := list(islice(readable, batch)):
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
    """Per sample which targets are named, or why it failed; what fails together is tried again in halves."""
    try:
        return [*named_targets(lmm, group, max_new_tokens)]
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        if len(group) == 1 and isinstance(error, torch.OutOfMemoryError):
            raise
        failed = f"noun recall: {type(error).__name__}: {error}"
    if len(group) == 1:
        return [failed]
    middle = len(group) // 2
    return _answered(lmm, group[:middle], max_new_tokens) + _answered(lmm, group[middle:], max_new_tokens)


def _packed(answers: Sequence[np.ndarray | str]) -> dict[str, np.ndarray]:
    named = [np.zeros(0, dtype=bool) if isinstance(answer, str) else answer for answer in answers]
    failed = [answer if isinstance(answer, str) else "" for answer in answers]
    counts = np.array([len(hits) for hits in named], dtype=np.int64)
    return {"named": np.concatenate(named), "counts": counts, "failed": np.array(failed, dtype=str)}


def _distinct(a: str, b: str) -> tuple[str, str]:
    """Short names that tell the models apart."""
    short = [name.rstrip("/").rsplit("/", 1)[-1] for name in (a, b)]
    if short[0] != short[1]:
        return short[0], short[1]
    return (a, b) if a != b else (f"{short[0]} (A)", f"{short[1]} (B)")
