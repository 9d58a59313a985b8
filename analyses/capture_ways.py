"""Ways to a given answer's attention, each as someone who knows the tool would write it; for bench_capture.py.

read      the pass alone, nothing attached
captured  interp.captures: noun phrases found, rows recorded beside the model's own kernel
hook      a hook written by hand for this model: queries of the asked rows anew, keys from the cache
cut       eager attention with output_attentions=True, cut to the rows afterwards
lens      TransformerLens's bridge, run_with_cache with a names filter for the patterns (pip install "interp[lens]")
nnsight   eager attention, the rows saved inside a trace (pip install nnsight)

All give the same: mean attention [sample layer head patch] over the answer's predicting rows, and the rows of the named
words [sample token layer head patch].
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

import interp
from interp.answer.parser import forget
from interp.answer.replay import answer_ids

PROMPT = "Describe the image in detail."


@dataclass
class Asked:
    """Images with their answers, the characters of the named words, and those words' tokens."""

    lmm: interp.LMM
    images: list[np.ndarray]
    answers: list[str]
    spans: list[tuple[int, int]]
    tokens: list[int]

    def prepared(self) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """What the model is called with, the rows that predict the answers, and the columns of the patches."""
        text = self.lmm.template(PROMPT)
        inputs = self.lmm.inputs(self.images, [text] * len(self.images))
        ids = [answer_ids(self.lmm.tokenizer, text, answer) for answer in self.answers]
        start, said = inputs["input_ids"].shape[1] - 1, torch.tensor(ids).to(inputs["input_ids"])[:, :-1]
        inputs["input_ids"] = torch.cat([inputs["input_ids"], said], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        patches = (inputs["input_ids"][0] == self.lmm.model.config.image_token_id).nonzero()[:, 0]
        return inputs, torch.arange(start, inputs["input_ids"].shape[1], device=patches.device), patches

    def given(self, rows: list[Tensor]) -> tuple[Tensor, Tensor]:
        """From each layer's rows [sample head row patch]: the means, and the rows of the words."""
        kept = torch.stack([x[:, :, self.tokens].float() for x in rows], 2)
        return torch.stack([x.float().mean(2) for x in rows], 1).cpu(), kept.permute(0, 3, 2, 1, 4).cpu()


def make(lmm: interp.LMM, batch: int, side: int, tokens: int, words: int, seed: int) -> Asked:
    """Random images and answers of random words, the same words asked of each."""
    rng, tokenizer = np.random.default_rng(seed), lmm.tokenizer
    images = [rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(batch)]
    answers = [tokenizer.decode(rng.integers(5, len(tokenizer), tokens).tolist()).strip() for _ in range(batch)]
    places = np.linspace(0, tokens - 2, words).round().astype(int).tolist()
    starts = np.cumsum([0, *(len(word) + 1 for word in answers[0].split(" "))])
    spans = [(int(starts[i]), int(starts[i + 1]) - 1) for i in places]
    return Asked(lmm, images, answers, spans, places)


@torch.no_grad()
def read(asked: Asked) -> None:
    """The pass alone."""
    inputs, rows, _ = asked.prepared()
    asked.lmm.model(**inputs, logits_to_keep=len(rows))


def captured(asked: Asked) -> tuple[Tensor, Tensor]:
    """interp; its parser has read no text yet."""
    forget()
    each = zip(asked.images, asked.answers, strict=True)
    samples = [interp.Sample(str(i), image, PROMPT, answer) for i, (image, answer) in enumerate(each)]
    found = interp.captures(asked.lmm, samples, batch=len(samples), phrases=lambda _: asked.spans)
    both = [(c.mean.flatten(2), c.attention.flatten(3)) for c in found]  # type: ignore[union-attr]
    return torch.stack([m for m, _ in both]), torch.stack([k for _, k in both])


@torch.no_grad()
def hook(asked: Asked) -> tuple[Tensor, Tensor]:
    """A hook on every attention module of a Llama."""
    inputs, rows, patches = asked.prepared()
    found: list[Tensor] = []
    later = torch.arange(inputs["input_ids"].shape[1], device=rows.device) > rows[:, None]

    def look(module: Any, args: Any, kwargs: dict[str, Any], output: Any) -> None:
        hidden = kwargs["hidden_states"][:, rows]
        cos, sin = (x[:, rows] for x in kwargs["position_embeddings"])
        query = module.q_proj(hidden).unflatten(-1, (-1, module.head_dim)).transpose(1, 2)
        query, _ = apply_rotary_pos_emb(query, query, cos, sin)
        key = repeat_kv(kwargs["past_key_values"].layers[module.layer_idx].keys, module.num_key_value_groups)
        scores = (query.float() @ key.float().mT) * module.scaling
        found.append(scores.masked_fill_(later, -torch.inf).softmax(-1)[..., patches])

    layers = asked.lmm.decoder.layers
    hooks = [layer.self_attn.register_forward_hook(look, with_kwargs=True) for layer in layers]
    try:
        asked.lmm.model(**inputs, logits_to_keep=len(rows), use_cache=True)
    finally:
        for one in hooks:
            one.remove()
    return asked.given(found)


@contextlib.contextmanager
def eager(lmm: interp.LMM) -> Iterator[None]:
    """Inside, the model computes its attention in full."""
    before = lmm.model.config._attn_implementation
    lmm.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        lmm.model.set_attn_implementation(before)


@torch.no_grad()
def cut(asked: Asked) -> tuple[Tensor, Tensor]:
    """All of every layer, then the rows."""
    inputs, rows, patches = asked.prepared()
    with eager(asked.lmm):
        out = asked.lmm.model(**inputs, logits_to_keep=len(rows), output_attentions=True)
    return asked.given([x[:, :, rows][..., patches] for x in out.attentions])


@torch.no_grad()
def lens(asked: Asked) -> tuple[Tensor, Tensor]:
    """TransformerLens; the bridge is made once."""
    inputs, rows, patches = asked.prepared()
    bridge = asked.__dict__.setdefault("bridge", None) or interp.to_lens(asked.lmm)
    asked.__dict__["bridge"] = bridge
    ids = inputs.pop("input_ids")
    _, cache = bridge.run_with_cache(ids, names_filter=lambda name: name.endswith("attn.hook_pattern"), **inputs)
    patterns = [cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(asked.lmm.layers)]
    return asked.given([x[:, :, rows][..., patches] for x in patterns])


@torch.no_grad()
def nnsight(asked: Asked) -> tuple[Tensor, Tensor]:
    """nnsight; the wrapper is made once."""
    from nnsight import NNsight

    inputs, rows, patches = asked.prepared()
    wrapped = asked.__dict__.setdefault("wrapped", None) or NNsight(asked.lmm.model)
    asked.__dict__["wrapped"] = wrapped
    layers = wrapped.model.language_model.layers
    with eager(asked.lmm), wrapped.trace(**inputs, logits_to_keep=len(rows)):
        found = list().save()  # type: ignore[attr-defined]  # inside, objects have nnsight's save
        for layer in layers:
            found.append(layer.self_attn.output[1][:, :, rows][..., patches])
    return asked.given(list(found))


WAYS: dict[str, Callable[[Asked], Any]] = {
    "read": read, "captured": captured, "hook": hook, "cut": cut, "lens": lens, "nnsight": nnsight,
}  # fmt: skip
