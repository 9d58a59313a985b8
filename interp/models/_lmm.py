"""A multimodal model with its processor and its family, ready to generate and to be captured."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from interp.images import read_image
from interp.models import _family as family_of
from interp.types import PatchGrid


@dataclass(frozen=True)
class LMM:
    """A model, its processor, and the family module that knows how its image tokens lie.

    ``layers`` and ``heads`` count those of the language model. Generation is greedy: the same input gives
    the same text. ``options`` go to the image processor (`interp.load`); ``view`` names the view of the image that maps
    are made of, None the main one.
    """

    model: Any
    processor: Any
    family: Any
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    view: str | None = None

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def layers(self) -> int:
        """Layers of the language model."""
        return self.model.config.get_text_config(decoder=True).num_hidden_layers

    @property
    def heads(self) -> int:
        """Query heads in each layer of the language model."""
        return self.model.config.get_text_config(decoder=True).num_attention_heads

    @property
    def device(self) -> torch.device:
        """Where the model takes its token ids."""
        device = self.model.get_input_embeddings().weight.device
        return torch.device("cpu") if device.type == "meta" else device  # offloaded: accelerate fetches the inputs

    @property
    def decoder(self) -> nn.Module:
        """The part whose layers' attention is recorded: the language model."""
        return family_of.decoder(self.family, self.model)

    def template(self, prompt: str) -> str:
        """The whole text before the answer, with one image place; a prompt that has one comes back as it is."""
        return family_of.template(self.family, self.processor, prompt)

    def grid(self, image_size: tuple[int, int], inputs: Mapping[str, Tensor], sample: int = 0) -> PatchGrid:
        """The tokens of one sample's image of (height, width) pixels, from the batch's ``inputs``; positions without
        the sample's left padding.

        Raises:
            ValueError: text and image do not belong together, or the image lacks the ``view``.
        """
        own = family_of.own_inputs(inputs, sample)
        grid = family_of.grid(self.family, self.model, self.processor, image_size, own)
        return grid if self.view is None else grid.seen_as(self.view)

    def generate(self, image: Any, prompt: str, max_new_tokens: int = 128) -> str:
        """The model's answer, greedily. ``prompt`` is plain text, or a whole template with one image place."""
        return self.generate_batch([image], [prompt], max_new_tokens)[0]

    def generate_batch(self, images: Sequence[Any], prompts: Sequence[str], max_new_tokens: int = 128) -> list[str]:
        """One answer per image and prompt, the same as one by one."""
        if len(images) != len(prompts):
            raise ValueError(f"{len(images)} images but {len(prompts)} prompts; expected one prompt per image")
        if not images:
            return []
        texts = [self.template(prompt) for prompt in prompts]
        inputs = self.inputs([read_image(image) for image in images], texts)
        out = self.generate_ids(inputs, max_new_tokens)
        answers = out.sequences[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.tokenizer.batch_decode(answers, skip_special_tokens=True)]

    def inputs(self, images: Sequence[Any], texts: Sequence[str]) -> dict[str, Tensor]:
        """The family's inputs for images (arrays) and whole texts, on the model's device and in its precision."""
        made = family_of.prepare(self.family, self.processor, images, texts, self.options)
        dtype = self.model.dtype
        return {k: v.to(self.device, dtype if v.is_floating_point() else v.dtype) for k, v in made.items()}

    def generate_ids(self, inputs: dict[str, Tensor], max_new_tokens: int, **options: Any) -> Any:
        """transformers' output of greedy generation, with ``sequences`` and a cache that can be cut back."""
        if max_new_tokens < 1:
            raise ValueError(f"max_new_tokens is {max_new_tokens}; expected at least 1")
        cache = DynamicCache(config=self.model.config)
        cache.activate_past_recording()  # or a sliding window would have forgotten the prompt
        stop = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else self.tokenizer.eos_token_id
        with evaluating(self.model), torch.no_grad():
            return self.model.generate(
                **inputs,
                max_new_tokens=max_new_tokens,
                do_sample=False,
                num_beams=1,
                num_return_sequences=1,
                pad_token_id=stop,
                past_key_values=cache,
                cache_implementation=None,
                return_dict_in_generate=True,
                **options,
            )


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Every module in eval mode inside; each as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
