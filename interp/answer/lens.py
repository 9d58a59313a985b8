"""A multimodal model under TransformerLens's hooks, and its caches as captures (needs the extra ``lens``).

``to_lens`` gives the bridge, ``lens_prompt`` what it is called with, ``LensPrompt.capture`` the way back::

    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, image, prompt, answer)
    logits, cache = bridge.run_with_cache(asked.input_ids, **asked.inputs)
    maps = interp.phrase_maps(asked.capture(cache))
"""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from interp.answer.layers import layers_with_heads
from interp.answer.phrases import answer_text, find_phrases
from interp.answer.replay import Answer, CaptureError, answer_ids, generate, replay
from interp.images import read_image
from interp.models._lmm import LMM
from interp.types import Capture, PatchGrid, Phrase, Query

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge


PATTERN = "blocks.{}.attn.hook_pattern"
"""A layer's attention after the softmax, in a cache of TransformerLens: [batch head row key]."""


class LensMissing(ImportError):
    """TransformerLens was asked for and is not installed, or a library that its adapter for the model needs.

    What to do: install the extra ``lens``, or the library that the message names.
    """


def to_lens(lmm: LMM) -> TransformerBridge:
    """TransformerLens's bridge over the model's own parameters, in eval mode and with eager attention.

    The bridge gets a tree of modules, a configuration and a processor of its own; every parameter and buffer is the
    model's (the same tensor, tied ones stay tied). The model itself, its attention implementation and its outputs stay
    as they are. A weight that is changed in place changes in both, and ``bridge.enable_compatibility_mode()`` gives the
    bridge weights of its own. Move or cast the model before, not the bridge: that would take the model's parameters
    along, but not its buffers.

    Everything is made from what is in memory (TransformerLens's ``build_bridge_from_module``): nothing is read from a
    folder or the hub, and the part of ``boot_transformers`` that installs torchvision by itself is never reached. A
    family built on another takes that one's adapter: DiffLMM takes LLaVA's.

    Raises:
        LensMissing: the extra is not installed, or a library that its adapter for the model needs.
        ValueError: TransformerLens has no adapter for the model, or weights are offloaded.
    """
    with _as_it_was():
        try:
            from transformer_lens.model_bridge.sources import build_bridge_from_module, detect_tokenizer_bos_eos
            from transformer_lens.utilities.architectures import MULTIMODAL_ARCHITECTURES
        except ImportError as error:
            raise LensMissing('to_lens needs TransformerLens: pip install "interp[lens]"') from error
        architecture = _architecture(lmm.model, MULTIMODAL_ARCHITECTURES)
        model = _twin(lmm.model)
        try:
            bridge = build_bridge_from_module(model, architecture, hf_config=model.config, model_name=lmm.name)
        except ImportError as error:  # said by the adapter, before anything is installed
            raise LensMissing(
                f"TransformerLens's adapter for {architecture} needs what is not here ({error}): install it by hand, "
                "in the version for this torch. `interp.record` and `interp.capture` need none"
            ) from error
    bridge.processor = copy.deepcopy(lmm.processor)
    bridge.tokenizer = bridge.processor.tokenizer  # given before, it would be loaded anew from where it came from
    bridge.cfg.tokenizer_prepends_bos, bridge.cfg.tokenizer_appends_eos = detect_tokenizer_bos_eos(bridge.tokenizer)
    return bridge


def _twin(model: nn.Module) -> nn.Module:
    """The model once more, around the same parameters and buffers; in eval mode."""
    tensors = list(itertools.chain(model.parameters(), model.buffers()))
    if any(tensor.is_meta for tensor in tensors):
        raise ValueError(
            f"some weights of {type(model).__name__} are offloaded, and a bridge cannot share them; "
            "load the model without offloading, e.g. in a smaller dtype"
        )
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors}).eval()


def _architecture(model: nn.Module, known: set[str]) -> str:
    """The adapter's name: that of the model's class, or of the nearest one that it is built on."""
    for cls in type(model).__mro__:
        if cls.__name__ in known:
            return cls.__name__
    raise ValueError(
        f"TransformerLens has no adapter for {type(model).__name__}; it has one for what is built on any of "
        f"{', '.join(sorted(known))}. `interp.record` and `interp.capture` need none."
    )


@contextlib.contextmanager
def _as_it_was() -> Iterator[None]:
    """Warning filters and transformers' log level are afterwards as before: importing TransformerLens sets both."""
    logger = logging.getLogger("transformers")
    level = logger.level
    try:
        with warnings.catch_warnings():
            yield
    finally:
        logger.setLevel(level)


@dataclass(frozen=True)
class LensPrompt:
    """An image, a prompt and an answer: what a bridge is called with, and where things lie in its caches.

    ``bridge.run_with_cache(p.input_ids, **p.inputs)``, and ``run_with_hooks`` alike, read the prompt with the whole
    answer, whose ``tokens`` (strings) stand at the positions ``start``, ``start + 1``, ... The patches stand at
    ``grid.token_index[row, col]``; a phrase's ``tokens`` count from the answer's first. ``layers`` are the numbers of
    those with attention heads.
    """

    input_ids: Int[Tensor, "sample position"]
    inputs: dict[str, Any]
    sample_id: str
    prompt: str
    answer: str
    tokens: tuple[str, ...]
    start: int
    layers: tuple[int, ...]
    grid: PatchGrid
    query: Query
    phrases: tuple[Phrase, ...]

    @property
    def rows(self) -> Int[np.ndarray, " answer_token"]:
        """The row that stands for each answer token: of the token before it, or its own (``query="self"``)."""
        return np.arange(self.start, self.start + len(self.tokens)) - (self.query == "predicting")

    def logprobs(self, logits: Float[Tensor, "sample position vocabulary"]) -> Float[Tensor, " answer_token"]:
        """Each answer token's log-probability, from logits of the whole sequence."""
        answer = self.input_ids[0, self.start :].to(logits.device)
        return logits[0, self.start - 1 : -1].float().log_softmax(-1).gather(-1, answer[:, None])[:, 0]

    def capture(self, cache: Any, logits: Tensor | None = None) -> Capture:
        """What ``interp.capture(..., tokens="all")`` gives, from a cache that holds every layer's ``hook_pattern``.

        ``interp.phrase_maps`` makes maps of it. With ``logits`` it has the log-probabilities too.

        Raises:
            ValueError: a layer is missing, or the cache is of another sequence, of a batch, or of some positions only.
        """
        rows, columns = torch.from_numpy(self.rows), torch.from_numpy(self.grid.tokens)
        layers = [self._pattern(cache, layer)[:, rows][:, :, columns].cpu() for layer in self.layers]
        everything, patches = torch.stack(layers).permute(2, 0, 1, 3), self.grid.token_index.size
        attention = everything[..., :patches].unflatten(-1, self.grid.shape)
        return Capture(
            sample_id=self.sample_id,
            prompt=self.prompt,
            answer=self.answer,
            tokens=self.tokens,
            grid=self.grid,
            query=self.query,
            kept=np.arange(len(self.tokens)),
            attention=attention,
            mean=attention.mean(0),
            phrases=self.phrases,
            logprobs=None if logits is None else self.logprobs(logits).detach().cpu().numpy(),
            elsewhere=everything[..., patches:].sum(-1) if len(columns) > patches else None,
            layers=self.layers,
        )

    def _pattern(self, cache: Any, layer: int) -> Float[Tensor, "head row key"]:
        name, length = PATTERN.format(layer), self.input_ids.shape[1]
        try:
            pattern = cache[name]
        except KeyError as error:
            raise ValueError(f"the cache has no {name}; let names_filter keep every layer's hook_pattern") from error
        if (
            pattern.shape[-2:] != (length, length)
            or pattern.ndim not in (3, 4)
            or (pattern.ndim == 4 and len(pattern) > 1)
        ):
            raise ValueError(
                f"{name} has the shape {tuple(pattern.shape)}; expected (1, head, {length}, {length}) of a pass over "
                "this prompt's input_ids, alone and without pos_slice"
            )
        return pattern.detach().reshape(-1, length, length).float()


def lens_prompt(
    lmm: LMM,
    image: Any,
    prompt: str,
    answer: str | None = None,
    query: Query = "predicting",
    phrases: Sequence[Any] | str | None = None,
    max_new_tokens: int = 128,
    sample_id: str = "",
) -> LensPrompt:
    """What a bridge of this model is called with to read the answer, on the model's device, and where things lie.

    Args:
        answer: the answer's text; None lets the model generate it, greedily.
        query: the row that *predicts* a token (that of the token before it), or its own: for ``rows`` and ``capture``.
        phrases: words or (start, end) characters of the answer to take in place of its noun phrases.

    Raises:
        CaptureError: an empty answer, or one with an image place.
        ValueError: bad image, prompt or option.
    """
    if query not in get_args(Query):
        raise ValueError(f"query is {query!r}; expected one of {', '.join(map(repr, get_args(Query)))}")
    pixels, text = read_image(image), lmm.template(prompt)
    inputs = lmm.inputs([pixels], [text])
    said = _answer(lmm, inputs, text, answer, max_new_tokens)
    spoken, offsets = answer_text(lmm.tokenizer, said.ids, answer)
    if not spoken.strip():
        raise CaptureError("the model's answer is empty; ask in another way, or give an answer")
    call = replay(lmm.model, inputs, [said.ids], "self").call
    whole = call.pop("input_ids")
    return LensPrompt(
        input_ids=whole,
        inputs={name: x for name, x in call.items() if isinstance(x, Tensor) and name != "position_ids"},
        sample_id=sample_id,
        prompt=prompt,
        answer=spoken,
        tokens=tuple(lmm.tokenizer.convert_ids_to_tokens(said.ids)),
        start=inputs["input_ids"].shape[1],
        layers=layers_with_heads(lmm),
        grid=lmm.grid(pixels.shape[:2], inputs),
        query=query,
        phrases=find_phrases(spoken, offsets, phrases, truncated=said.truncated),
    )


def _answer(lmm: LMM, inputs: dict[str, Tensor], text: str, answer: str | None, max_new_tokens: int) -> Answer:
    """The given answer's tokens, or those that the model generates."""
    if answer is None:
        return generate(lmm, inputs, max_new_tokens)[0][0]
    if lmm.processor.image_token in answer:
        raise CaptureError(f"the answer holds an image place ({lmm.processor.image_token}): {answer!r}; take it out")
    return Answer(answer_ids(lmm.tokenizer, text, answer))
