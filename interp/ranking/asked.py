"""What a run is asked for: which words of the answers, by which metrics."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from interp.answer.spelling import found_at
from interp.contracts import Metric
from interp.metrics._given import metrics_of, source_of
from interp.types import Sample
from interp.work.code import code_of

Words = Sequence[str] | Callable[[Sample], Any] | str | None
"""Which words of an answer are scored: None, its noun phrases; ``"targets"``, the names of the sample's targets; a list
of words; or a function that gives each sample's own. Only what stands in the answer counts."""


def words_of(given: Words) -> tuple[Callable[[Sample], Any] | None, Any]:
    """What `interp.captures` takes as ``phrases``, and what a stored score's key says of it.

    Raises:
        ValueError: no words, or a function whose code cannot be read.
    """
    if given is None or given == "targets":
        return finder(given), given
    if callable(given):
        return given, _code(given)
    return finder(given), _listed(given)


def finder(given: Words) -> Callable[[Sample], Any] | None:
    """What `interp.captures` takes as ``phrases``, for what is shown and not stored.

    Raises:
        ValueError: no words.
    """
    if given is None or callable(given):
        return given
    if given == "targets":
        return lambda sample: _there([target.phrase for target in sample.targets])
    words = _listed(given)
    return lambda sample: _there(words)


def _listed(given: Sequence[str] | str) -> list[str]:
    words = [given] if isinstance(given, str) else list(given)
    if not words or not all(isinstance(word, str) and word.strip() for word in words):
        raise ValueError(f"phrases is {given!r}; expected words, 'targets', or a function of a sample that gives words")
    return words


def _there(words: Sequence[str]) -> Callable[[str], list[str]]:
    """A function of the answer that gives those of the words that stand in it."""
    return lambda answer: [word for word in dict.fromkeys(words) if any(True for _ in found_at(word, answer))]


def _code(function: Callable[..., Any]) -> str:
    """SHA-256 of the function's source and of what it closes over.

    Raises:
        ValueError: it cannot be read, so that stored scores could be another's.
    """
    try:
        return hashlib.sha256(code_of(function).encode()).hexdigest()
    except (OSError, TypeError, ValueError) as error:
        raise ValueError(
            f"the code of phrases={function!r} cannot be read ({error}); write it in a file or a notebook's cell, so "
            "that what is kept of it can be told from another's"
        ) from error


def metrics_asked(given: Sequence[Any] | None) -> tuple[list[str], dict[str, Metric], dict[str, str]]:
    """Names of the metrics in the order asked, the metrics, and the hash of each one's code, on which stored scores
    depend. ``given``: each as `interp.metrics._given.metric_of` reads it; None is all.

    Raises:
        interp.plugins.UnknownName, FileNotFoundError, ValueError: no such metric, none at all, or two of one name.
    """
    asked = metrics_of(given)
    if not asked:
        raise ValueError("metrics is empty; expected at least one, or None for all of them")
    return list(asked), asked, {name: source_of(metric) for name, metric in asked.items()}
