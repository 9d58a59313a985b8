"""Text encoders of mask recall: texts -> vectors whose cosine says how alike two phrases are."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float

from interp.evaluation.instances import parser_vectors

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
        tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise EncoderMissing(
            f"no text encoder {name!r}: {str(error).splitlines()[0]} Name a folder that holds one, or "
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
