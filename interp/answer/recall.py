"""Which of an image's things a model's own answer names: noun recall."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from interp.answer.phrases import answer_text, find_phrases
from interp.answer.targets import targets_named
from interp.types import Phrase, Sample


def named_targets(lmm: Any, samples: Sequence[Sample], max_new_tokens: int = 128) -> list[Bool[np.ndarray, " target"]]:
    """Per sample and visible target, whether a noun phrase of the model's own answer names it; empty without targets.

    The answer is greedy. A phrase names a target as in `interp.answer.targets.match_targets`, so that "a teddy bear"
    names the teddy bear and not the bear beside it; the share of True over all targets is the noun recall, 0..1.
    """
    answers = lmm.generate_batch([s.image for s in samples], [s.prompt for s in samples], max_new_tokens)
    found = []
    for sample, answer in zip(samples, answers, strict=True):
        named = {k for some in targets_named(phrases_in(lmm.tokenizer, answer), sample.targets) for k in some}
        found.append(np.array([k in named for k, t in enumerate(sample.targets) if t.mask.any()], dtype=bool))
    return found


def phrases_in(tokenizer: Any, answer: str) -> tuple[Phrase, ...]:
    """The noun phrases of a model's answer; none in an empty one."""
    ids = tokenizer(answer, add_special_tokens=False).input_ids
    text, offsets = answer_text(tokenizer, list(ids), answer) if ids else ("", [])
    return find_phrases(text, offsets) if text.strip() else ()
