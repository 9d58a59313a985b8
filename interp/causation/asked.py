"""One study of effects as it is asked for: what is taken away, how, and what its stored batches depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import interp
from interp.answer.layers import layers_with_heads
from interp.attention.ablation import Reference
from interp.causation.setting import EDGES, How
from interp.causation.units import Units, units_of
from interp.metrics._given import metric_of, source_of
from interp.models._identity import fingerprint, setup
from interp.types import Weighting

INTERVENTIONS = ("zero", "mean", "resample", "knockout")


WHERE = ("word", "answer", "all")

ABOUT = ("sample_id", "image_id", "phrase", "root", "tokens", "area")
"""What is kept of each phrase."""


@dataclass(frozen=True)
class Study:
    """What is taken away, how, and what stored batches of it depend on."""

    units: Units
    how: How
    settings: dict[str, Any]
    metric: str
    answers: Any

    @property
    def lacks_reference(self) -> bool:
        """Whether its heads are to put out what is not known yet."""
        return self.how.intervention in ("mean", "resample") and self.how.reference is None

    def __str__(self) -> str:
        knockout = self.how.intervention == "knockout"
        return f"{self.how.keys} patches hidden" if knockout else f"{len(self.units.all)} units away"


def study_of(
    lmm: Any,
    heads: Any,
    intervention: str,
    *,
    where: str | None = None,
    keys: str = "own",
    reference: Reference | None = None,
    metric: Any = "mass_in_mask",
    weighting: Weighting = "attention",
    generate: bool = False,
    answers: str,
    draws: int,
    seed: int,
    batch: int,
    copies: int,
    max_new_tokens: int,
) -> Study:
    """The study that `effects` is asked for.

    Raises:
        ValueError, interp.plugins.UnknownName: a bad argument.
    """
    place = where or ("word" if intervention == "knockout" else "answer")
    _check(intervention, place, keys, answers, {"draws": draws, "batch": batch, "copies": copies})
    units = units_of(heads, layers_with_heads(lmm), lmm.heads, draws, seed)
    metric, scorer = metric_of(metric)
    how = How(
        intervention, place, keys, reference, scorer, generate, seed, copies,
        max_new_tokens, weighting,
    )  # fmt: skip
    settings = {
        "what": "effects",
        "model": getattr(lmm, "name", type(lmm).__name__),
        "weights": fingerprint(lmm.model),
        "setup": setup(lmm),
        "source": source_of(scorer),
        "how": [intervention, place, keys, metric, weighting, generate, answers, seed, max_new_tokens],
        "reference": None if reference is None else _digest(reference),
        "units": [[list(h) for h in unit] for unit in units.all],
        "about": ABOUT,
        "version": interp.__version__,
    }
    return Study(units, how, settings, metric, answers)


def _check(intervention: str, where: str, keys: str, answers: str, numbers: Mapping[str, int]) -> None:
    for name, value, known in (
        ("intervention", intervention, INTERVENTIONS),
        ("where", where, WHERE),
        ("keys", keys, EDGES),
        ("answers", answers, ("reference", "generated")),
    ):
        if value not in known:
            raise ValueError(f"{name} is {value!r}; expected one of {', '.join(map(repr, known))}")
    if intervention == "knockout" and where == "all":
        raise ValueError("a knockout is of rows of the answer; expected where='word' or where='answer'")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; expected at least 1")


def _digest(reference: Reference) -> list[float]:
    """A few numbers that tell references apart."""
    return [
        float(reference.count),
        *reference.mean.double().flatten()[:: max(reference.mean.numel() // 16, 1)].tolist(),
    ]
