"""Two models on the same images and words: which one grounds better, by how much, and how sure that is.

Each model is ranked (`interp.rank`) under its main setting and once more for each effect that is asked for, with one
store, so that a killed run goes on. The tables are made in `interp.comparison`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from torch import nn

from interp.comparison.batch import measure
from interp.comparison.result import EFFECTS, Comparison
from interp.comparison.tables import compared
from interp.models._given import lmm_of
from interp.ranking.asked import Words
from interp.ranking.batch import Mentions
from interp.ranking.study import check, check_kinds
from interp.types import By, Query, Rows, Sample, Skip, Weighting
from interp.work.samples import held, repeatable
from interp.work.sharing import Several
from interp.work.store import Memory, Store


def compare(
    a: Any,
    b: Any,
    dataset: Iterable[Sample | Skip],
    metrics: Sequence[Any] | None = None,
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
    rows: Rows = "mean",
    mentions: Mentions = "all",
    by: By | None = None,
    phrases: Words = None,
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
        interp.ranking.result.NothingToRank: one of the models has no phrase to score.
        NothingToCompare: they have none in common.
        ValueError, interp.plugins.UnknownName: as for `interp.rank`, or an unknown effect.
    """
    check(answers, normalise, samples, batch, nulls, weighting, seed)
    check_kinds(answers, rows, mentions, "none", by)
    if wrong := [e for e in effects if e not in EFFECTS]:
        raise ValueError(f"no effect {wrong[0]!r}; expected some of {', '.join(EFFECTS)}")
    if names and names[0] == names[1]:
        raise ValueError(f"both models are called {names[0]!r}; give them two names")
    again = held(repeatable(dataset, samples))
    how = {"answers": answers, "seed": seed, "batch": batch, "nulls": nulls, "max_new_tokens": max_new_tokens}
    how |= {"weighting": weighting, "rows": rows, "mentions": mentions, "by": by, "phrases": phrases}
    kept = Memory() if store is None else store
    settings = _settings((normalise, query), effects)
    measured, several = [], Several()
    for source in (a, b):
        loads = callable(source) and not hasattr(source, "layers") and not isinstance(source, nn.Module)
        lmm = lmm_of(source() if loads else source)
        how |= {"recall": recall, "store": kept, "progress": progress}
        measured.append(several(measure, lmm, again, metrics, settings, **how))
        del lmm, source
    several.check()
    given = names or _distinct(*(m.name for m in measured))
    return compared(measured[0], measured[1], given, answers=answers, seed=seed)


def _settings(main: tuple[str, str], effects: Sequence[str]) -> list[tuple[str, str]]:
    """The main (normalise, query) first, then those in which one of the two is the other one."""
    found = [main]
    if "normalise" in effects:
        found.append(("none" if main[0] == "answer" else "answer", main[1]))
    if "query" in effects:
        found.append((main[0], "self" if main[1] == "predicting" else "predicting"))
    return found


def _distinct(a: str, b: str) -> tuple[str, str]:
    """Short names that tell the models apart."""
    short = [name.rstrip("/").rsplit("/", 1)[-1] for name in (a, b)]
    if short[0] != short[1]:
        return short[0], short[1]
    return (a, b) if a != b else (f"{short[0]} (A)", f"{short[1]} (B)")
