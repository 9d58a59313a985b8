"""METEOR and CIDEr of captions, by pycocoevalcap. METEOR and the Penn Treebank tokeniser need Java; CIDEr does not."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

NO_JAVA = "METEOR needs Java, and no `java` is on the PATH; install a Java runtime (8 or later), or leave METEOR out"


class CaptionMeasuresMissing(ImportError):
    """METEOR and CIDEr were asked for and pycocoevalcap is not installed.

    What to do: install the extra ``eval``.
    """


@dataclass(frozen=True)
class CaptionScores:
    """``meteor`` (0..1) and ``cider`` (0..10) of all captions, ``each`` caption's CIDEr, and ``tokeniser``: ``ptb`` or
    ``simple``. NaN with a reason in ``notes`` where a measure could not be had."""

    meteor: float
    cider: float
    each: Float[np.ndarray, " caption"]
    tokeniser: str
    notes: dict[str, str]


def score(captions: Sequence[str], references: Sequence[Sequence[str]], java: bool | None = None) -> CaptionScores:
    """METEOR (Denkowski and Lavie 2014) and CIDEr-D (Vedantam et al. 2015) as COCO's caption evaluation has them.

    With Java the captions are tokenised by Stanford's Penn Treebank tokeniser, as published; without it by
    `simple_tokens`, and METEOR is NaN. ``java``: None looks for it on the PATH.

    Raises:
        CaptionMeasuresMissing: pycocoevalcap is not installed.
        ValueError: not one list of at least one reference per caption.
    """
    if len(captions) != len(references) or not all(references):
        raise ValueError(
            f"{len(captions)} captions, {len(references)} lists of references; expected one, not empty, each"
        )
    has_java = shutil.which("java") is not None if java is None else java
    notes = {} if has_java else {"meteor": NO_JAVA, "cider": "simple tokeniser in place of Stanford's: no Java"}
    if not captions:
        nothing = {"meteor": "no captions", "cider": "no captions"}
        return CaptionScores(float("nan"), float("nan"), np.zeros(0), "ptb" if has_java else "simple", nothing)
    tokeniser = "ptb" if has_java else "simple"
    cider = _modules()["cider"].Cider()
    tokenised = _ptb if has_java else _simple
    told = tokenised([[caption] for caption in captions])
    true = tokenised([list(some) for some in references])
    if not any(text.strip() for some in true.values() for text in some):
        why = dict.fromkeys(("meteor", "cider"), "no reference caption holds a word")
        return CaptionScores(float("nan"), float("nan"), np.full(len(captions), np.nan), tokeniser, {**notes, **why})
    total, each = cider.compute_score(true, told)
    meteor = _meteor(true, told) if has_java else float("nan")
    return CaptionScores(meteor, float(total), np.asarray(each, dtype=float), tokeniser, notes)


def simple_tokens(text: str) -> str:
    """Words in lower case parted by spaces, without punctuation; "dog's" and "isn't" are cut as in the Penn Treebank
    ("dog 's", "is n't"). What the Java tokeniser gives for plain captions; it differs in brackets and abbreviations."""
    text = re.sub(r"n't\b", " n't", text.lower())
    text = re.sub(r"(?<=\w)'(s|re|ve|ll|d|m)\b", r" '\1", text)
    return " ".join(re.findall(r"n't|'(?:s|re|ve|ll|d|m)\b|\w+(?:[-.]\w+)*", text))


def _modules() -> dict[str, Any]:
    try:
        from pycocoevalcap.cider import cider
        from pycocoevalcap.meteor import meteor
        from pycocoevalcap.tokenizer import ptbtokenizer
    except ImportError as error:
        raise CaptionMeasuresMissing(
            "METEOR and CIDEr need pycocoevalcap, which is not installed; run `pip install interp[eval]` or "
            "`pip install pycocoevalcap`"
        ) from error
    return {"cider": cider, "meteor": meteor, "ptb": ptbtokenizer}


def _simple(captions: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    return {i: [simple_tokens(text) for text in some] for i, some in enumerate(captions)}


def _ptb(captions: Sequence[Sequence[str]]) -> dict[int, list[str]]:
    # an empty line would be lost, and all captions after it would slip by one
    plain = {i: [{"caption": " ".join(t.split()) or "."} for t in some] for i, some in enumerate(captions)}
    return _modules()["ptb"].PTBTokenizer().tokenize(plain)


def _meteor(references: dict[int, list[str]], captions: dict[int, list[str]]) -> float:
    """The whole corpus' METEOR; its Java process ends here."""
    scorer = _modules()["meteor"].Meteor()
    try:
        value, _ = scorer.compute_score(references, captions)
    except (OSError, ValueError) as error:
        reason = scorer.meteor_p.stderr.read().decode(errors="replace").strip() or str(error)
        raise OSError(
            f"METEOR's Java process failed: {reason[-400:]}; check `java -version` and free memory"
        ) from error
    finally:
        process = scorer.meteor_p
        if scorer.lock.locked():  # after an error or an interrupt; its end waits for it
            scorer.lock.release()
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()
        process.kill()
        process.wait()
    return float(value)
