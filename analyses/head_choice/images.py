"""The study's images in batches, captured, with the phrases that name a target."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
from tqdm import tqdm

import interp
from interp.answer.capturing import captures
from interp.answer.targets import match_targets
from interp.types import Capture, Sample, Skip
from interp.work.store import key_of

Named = list[tuple[int, np.ndarray]]
"""The number of each phrase that names a target, and the target's mask."""


def groups(lmm: Any, samples: Iterable[Any], batch: int, about: dict[str, Any]) -> Iterator[tuple[str, list[Sample]]]:
    """The readable samples in batches, with each batch's key in the store."""
    settings = {"model": lmm.name, "weights": interp.fingerprint(lmm.model), "version": interp.__version__, **about}
    some = (s for s in samples if isinstance(s, Sample))
    with tqdm(desc=f"{lmm.name}: {'choosing' if 'metric' in about else 'measuring'}", unit="image") as bar:
        while group := list(islice(some, batch)):
            yield key_of(settings, group).replace("scores", "segment"), group
            bar.update(len(group))


def named(
    lmm: Any, group: Sequence[Sample], query: str = "predicting"
) -> Iterator[tuple[Sample, Capture, Named] | Skip]:
    """Each sample with the capture of its reference answer and the phrases that name a target; or why it has none."""
    found = captures(lmm, group, batch=len(group), query=query)
    for sample, capture in zip(group, found, strict=True):
        if isinstance(capture, Skip):
            yield capture
        elif matched := match_targets(capture.phrases, sample.targets):
            yield sample, capture, matched
        else:
            yield Skip(sample.id, "no phrase of the answer names a target")
