"""What heads do: how much worse a model says a word when heads, or their edges to the word's thing, are taken away."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from jaxtyping import Float
from tqdm.auto import tqdm

from interp.answer.replay import Answer
from interp.attention.ablation import Reference
from interp.causation.asked import ABOUT, Study, study_of
from interp.causation.batch import measure
from interp.causation.reading import Reading
from interp.causation.result import Effects, NothingToMeasure
from interp.causation.setting import How, Measured
from interp.causation.units import Units
from interp.causation.usual import draws_for
from interp.causation.usual import reference as reference_of
from interp.models._given import lmm_of
from interp.statistics import intervals, summary
from interp.statistics.scores import HeadScores
from interp.types import Sample, Skip, Weighting
from interp.work.parts import Group, Work
from interp.work.samples import Batches, Repeatable, held, repeatable
from interp.work.store import Joined, Memory, Store, key_of, marked


def effects(
    lmm: Any,
    dataset: Iterable[Sample | Skip],
    heads: Any = "all",
    intervention: Literal["zero", "mean", "resample", "knockout"] | str = "mean",
    *,
    where: Literal["word", "answer", "all"] | str | None = None,
    keys: Literal["own", "others", "background", "sinks"] | str = "own",
    reference: Reference | None = None,
    metric: Any = "mass_in_mask",
    weighting: Weighting = "attention",
    generate: bool = False,
    samples: int | None = None,
    answers: Literal["reference", "generated"] = "reference",
    draws: int = 200,
    seed: int = 0,
    batch: int = 8,
    copies: int = 64,
    max_new_tokens: int = 128,
    store: Store | None = None,
    progress: bool = True,
) -> Effects:
    """The effect of every unit of heads on the words that name a target, teacher-forced, with intervals over images.

    Args:
        heads: "all" (each by itself), "layers" (each layer's together), a list of heads, or sets of heads by name.
        intervention: what is done to the heads: `interp.ablate`'s modes, or `interp.knockout` of the edges from the
            word to patches.
        where: which rows: those that predict the ``word`` (default of a knockout), those that predict any token of the
            ``answer`` (default of an ablation), or ``all``, the prompt's and the image's included (ablation only).
        keys: which patches a knockout hides: those of the word's ``own`` thing, as many of ``others``' things, of the
            ``background``, or ``sinks`` (the patches outside it that the answer attends to most, over all heads).
        reference: for "mean" and "resample"; None gathers it from the same samples first (`interp.reference`).
        metric, weighting: how the grounding of later heads is measured, and on which kind of map.
        generate: also let the model answer under each intervention (all rows of the answer): one generation a unit.
        draws: random sets of heads beside each unit, of as many heads in each of its layers; with fewer than 19 no rank
            among them can be told from chance.
        copies: samples with their interventions that go through the model as one batch.

    All else is as for `interp.rank`. Layers below a unit's first are not run again, and with ``where`` other than "all"
    neither is the prompt.

    Raises:
        NothingToMeasure: no phrase could be measured.
        ValueError, interp.plugins.UnknownName: a bad argument.
    """
    lmm = lmm_of(lmm)
    again, said = held(repeatable(dataset, samples)), dict[str, Answer]()
    kept = Memory() if store is None else store
    common: Any = {"answers": answers, "seed": seed, "max_new_tokens": max_new_tokens}
    how = {"metric": metric, "weighting": weighting, "generate": generate, "draws": draws, "copies": copies, **common}
    how |= {"where": where, "keys": keys, "batch": batch}
    study = study_of(lmm, heads, intervention, reference=reference, **how)
    if study.lacks_reference:
        rows: Any = "all" if study.how.where == "all" else "answer"
        gather: Any = {"batch": batch, "store": kept, "progress": progress, "said": said, **common}
        reference = reference_of(lmm, again, rows=rows, draws=draws_for(intervention), **gather)
        study = study_of(lmm, heads, intervention, reference=reference, **how)
    return measured(lmm, [study], again, said, batch=batch, store=kept, progress=progress)[0]


def measured(
    lmm: Any,
    studies: Sequence[Study],
    again: Repeatable,
    said: dict[str, Answer],
    *,
    batch: int,
    store: Store,
    progress: bool,
) -> list[Effects]:
    """Each study's effects; a batch of samples is read once for all of them, and each study's part of it is stored as
    soon as it is there. ``said``: generated answers so far.

    Raises:
        NothingToMeasure: no phrase could be measured.
    """
    done: list[list[Mapping[str, np.ndarray]]] = [[] for _ in studies]
    skipped: list[list[Skip]] = [[] for _ in studies]
    kept = Joined(store)

    def keys(group: Group) -> list[str]:
        return [key_of(study.settings, group).replace("scores", "effects") for study in studies]

    def compute(group: Group) -> dict[str, np.ndarray]:
        reading = Reading(lmm, group, studies[0].answers, studies[0].how.max_new_tokens, said)
        parts = zip(studies, keys(group), strict=True)
        return kept.joined(kept.once(key, lambda own=own: _batch(reading, own.units, own.how)) for own, key in parts)

    about = {"what": "effects", "studies": [study.settings for study in studies]}
    work = Work(kept, about, Batches(again, batch), lambda group: kept.key(keys(group)), compute)
    text = str(studies[0]) if len(studies) == 1 else f"{len(studies)} studies of effects"
    with tqdm(desc=text, unit="image", disable=not progress) as bar:
        for parts in work.in_order(lambda part: kept.split(part.arrays), bar):
            for arrays, own, left in zip(parts, done, skipped, strict=True):
                left += [Skip(*s) for s in json.loads(bytes(arrays["skipped"]).decode())]
                if len(arrays["logprob"]):
                    own.append(arrays)
    found = []
    for study, own, left in zip(studies, done, skipped, strict=True):
        if not own:
            raise NothingToMeasure(f"no phrase could be measured: {left[0].reason if left else 'no samples'}")
        about = {**study.settings, "batch": batch, "metric": study.metric}
        found.append(_finish(own, study.units, study.how, tuple(left), about))
    return found


def _batch(reading: Reading, units: Units, how: How) -> dict[str, np.ndarray]:
    """Plain arrays for the store: the plain measures and each unit's effects, subjects first."""
    group = reading.group
    about, plain, found, patches = [], None, None, np.zeros(0, dtype=np.int64)
    if group.subjects:
        plain, found, patches = measure(reading, units.all, how)
        about = [
            [of.id, of.image_id, s.phrase.text, s.phrase.root, len(s.phrase.tokens), float(s.mask.mean())]
            for s, of in ((s, group.samples[s.sample]) for s in group.subjects)
        ]
    arrays = {"about": _json(about), "skipped": _json([[s.sample_id, s.reason] for s in group.skipped])}
    for name in Measured._fields:
        empty = np.zeros((len(units.all), 0))
        arrays[f"plain.{name}"] = getattr(plain, name) if plain else np.zeros(0)
        arrays[name] = (getattr(found, name) if found else empty).T
    return marked({**arrays, "patches": patches}, bool(group.subjects))


def _json(x: Any) -> np.ndarray:
    return np.frombuffer(json.dumps(x).encode(), dtype=np.uint8)


def _finish(
    done: list[Mapping[str, np.ndarray]], units: Units, how: How, skipped: tuple[Skip, ...], manifest: dict[str, Any]
) -> Effects:
    about = [row for arrays in done for row in json.loads(bytes(arrays["about"]).decode())]
    phrases = pd.DataFrame(about, columns=list(ABOUT))
    phrases["image_id"] = phrases["image_id"].astype(str)  # COCO's are numbers
    for name in Measured._fields:
        phrases[name] = np.concatenate([arrays[f"plain.{name}"] for arrays in done])
    phrases["patches"] = np.concatenate([arrays["patches"] for arrays in done])
    scores, frames = {}, []
    for name in Measured._fields:
        values = np.concatenate([arrays[name] for arrays in done])
        if name == "named" and not how.generate:
            continue
        null = np.full((len(values), len(units.names)), np.nan)
        for i, random in enumerate(units.nulls):
            if random:
                null[:, i] = values[:, list(random)].mean(1)
        scores[name] = HeadScores(
            name, True, tuple(phrases["sample_id"]), tuple(phrases["phrase"]),
            values[:, None, : len(units.names)], null[:, None], image_ids=tuple(phrases["image_id"]),
        )  # fmt: skip
        frames.append(pd.concat([_statistics(scores[name], units, how.seed), _among_random(values, units)], axis=1))
    manifest |= {"phrases": len(phrases), "images": phrases["image_id"].nunique(), "skipped": len(skipped)}
    return Effects(pd.concat(frames, ignore_index=True), scores, phrases, units, skipped, manifest)


def _statistics(score: HeadScores, units: Units, seed: int) -> pd.DataFrame:
    """A row per unit."""
    found = summary.statistics(score, seed)
    frame = pd.DataFrame({k: v for k, v in found.items() if k != "chance" and k not in summary.SPECIFIC})
    single = [unit[0] if len(unit) == 1 else None for unit in units.asked]
    about = pd.DataFrame(
        {
            "measure": score.metric,
            "unit": units.names,
            "layer": [-1 if h is None else h.layer for h in single],
            "head": [-1 if h is None else h.head for h in single],
            "size": [len(unit) for unit in units.asked],
        }
    )
    return pd.concat([about, frame], axis=1)


def _among_random(values: Float[np.ndarray, "phrase unit"], units: Units) -> pd.DataFrame:
    """Each unit's place among its random sets by mean effect: ``random``, how many they are; ``rank_among_random``, 1
    for the strongest; ``p_random``, (1 + random sets of at least that effect) / (1 + random sets). NaN without any."""
    mean = intervals.mean(values)
    rows = []
    for own, null in enumerate(units.nulls):
        beside = mean[list(null)]
        beside = beside[np.isfinite(beside)]
        stronger = np.nan if not len(beside) or np.isnan(mean[own]) else (beside >= mean[own] - 1e-12).sum()
        rows.append((len(beside), 1 + stronger, (1 + stronger) / (1 + len(beside))))
    return pd.DataFrame(rows, columns=["random", "rank_among_random", "p_random"])
