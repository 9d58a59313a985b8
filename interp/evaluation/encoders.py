"""Text encoders of mask recall: texts -> vectors whose cosine says how alike two phrases are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float

from interp.answer.parser import load_parser
from interp.models._config import check_source
from interp.models._described import check_folder

Encoder = Callable[[list[str]], Float[np.ndarray, "text dim"]]
BERT = "bert-base-uncased"


class EncoderMissing(LookupError):
    """The text encoder that mask recall compares phrases with cannot be had.

    What to do: name a BERT's folder or hub id with ``--encoder``, or leave it out: all other measures come without it.
    """


def bert(name: str = BERT, device: str | None = None, batch: int = 64) -> Encoder:
    """Mean over all tokens of the last hidden states, [CLS] and [SEP] included, of at most 512 tokens, as the released
    evaluation has it. ``name`` is a folder or hub id of any encoder of that kind.

    Raises:
        EncoderMissing: neither a folder nor to be had from the hub.
    """
    import torch
    from transformers import AutoModel, AutoTokenizer

    try:
        check_source(name, "a text encoder")
        if Path(name).is_dir():
            check_folder(Path(name))
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:  # config.json may hold anything
        raise EncoderMissing(
            f"no text encoder {name!r}: {str(error).splitlines()[0].rstrip('.')}. Name a folder that holds one, or "
            "'words' to compare phrases by the word vectors of the spaCy pipeline"
        ) from error
    model = model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()

    @torch.no_grad()
    def some(texts: Sequence[str]) -> np.ndarray:
        inputs = tokenizer(list(texts), return_tensors="pt", max_length=512, truncation=True, padding=True)
        inputs = inputs.to(model.device)
        hidden = model(**inputs).last_hidden_state.float()
        seen = inputs["attention_mask"][..., None].to(hidden)
        return ((hidden * seen).sum(1) / seen.sum(1)).cpu().numpy()

    def encode(texts: list[str]) -> np.ndarray:
        parts = [some(texts[i : i + batch]) for i in range(0, len(texts), batch)]
        return np.concatenate(parts) if parts else np.zeros((0, model.config.hidden_size), dtype=np.float32)

    return encode


def encoder(name: str, device: str | None = None) -> Encoder:
    """The encoder of that name: ``words`` for the spaCy pipeline's word vectors, else a BERT.

    Raises:
        EncoderMissing: the pipeline has no word vectors, or there is no such BERT.
    """
    if name != "words":
        return bert(name, device)
    vectors = parser_vectors()
    if vectors is None:
        raise EncoderMissing(
            "the spaCy pipeline has no word vectors; install en_core_web_md or en_core_web_lg, or name a BERT's folder"
        )
    return vectors


Vectors = Callable[[list[str]], Float[np.ndarray, "text dim"]]
"""Texts -> one vector each; a row of zeros for a word without one."""


def cosine(a: Float[np.ndarray, "first dim"], b: Float[np.ndarray, "second dim"]) -> Float[np.ndarray, "first second"]:
    """Cosine of every row with every other, -1..1; 0 where a row is all zeros, as scikit-learn has it.

    >>> cosine(np.array([[1.0, 0.0], [0.0, 0.0]]), np.array([[2.0, 0.0]])).tolist()
    [[1.0], [0.0]]
    """
    length = [np.linalg.norm(x, axis=1, keepdims=True) for x in (a, b)]
    unit = [x / np.where(n > 0, n, 1) for x, n in zip((a, b), length, strict=True)]
    return (unit[0] @ unit[1].T).astype(np.float64)


def parser_vectors(name: str | None = None) -> Vectors | None:
    """The word vectors of the spaCy pipeline; None if it has none (the small pipelines: their ``vector`` is the
    parser's own state, not a word's meaning)."""
    parser = load_parser(name)
    if not parser.vocab.vectors_length:
        return None

    @lru_cache(maxsize=65536)
    def vector(text: str) -> np.ndarray:
        return np.asarray(parser.make_doc(text).vector, dtype=np.float64)

    return lambda texts: np.stack([vector(text) for text in texts])
