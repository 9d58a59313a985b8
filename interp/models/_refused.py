"""Model types that are refused: their image tokens have no place in the image or in the sequence, or they come in a
layout that transformers does not read."""

from __future__ import annotations

_QUERIES = (
    "a Q-Former turns the image into learned queries, each of which reads all of it: its image tokens have no place in "
    "the image, and attention to one of them points nowhere"
)
_CROSS = (
    "the image is no part of the sequence but is read by cross-attention layers, with keys of their own: there is no "
    "row over text and image together"
)
REASONS = {
    "blip_2": _QUERIES,
    "instructblip": _QUERIES,
    "instructblipvideo": _QUERIES,
    "idefics2": _QUERIES.replace("a Q-Former", "a perceiver"),
    "idefics": _CROSS,
    "mllama": _CROSS,
    "florence2": "it is an encoder-decoder: the answer's tokens reach the image by cross-attention to encoder states, "
    "each of which has read all of the image and the prompt",
    "internvl_chat": "it is the layout of InternVL's own code; take the same model in transformers' layout, whose "
    "name ends in -hf or -HF (OpenGVLab/InternVL3-8B-hf, OpenGVLab/InternVL3_5-2B-HF)",
}


class RefusedFamily(LookupError):
    """A model of a kind that maps cannot be right for, or in a layout of its own.

    What to do: take a model whose image tokens stand for patches, or the layout that the message names;
    `interp.record` gives rows of any model.
    """


def check_allowed(model_type: str) -> None:
    """Nothing, if models of this type can be read and maps be right for them.

    Raises:
        RefusedFamily: with the reason.
    """
    if reason := REASONS.get(model_type.replace("-", "_")):
        raise RefusedFamily(f"models of type {model_type!r} are refused: {reason}")
