"""What a model family has where its file says nothing else: loading, decoder, template, inputs; what its grid gets."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from interp import plugins
from interp.models import _hf
from interp.models._refused import check_allowed
from interp.types import PatchGrid


def named(model_type: Any) -> Any:
    """The family module of that name; a module comes back as it is.

    Raises:
        interp.plugins.UnknownName: no family of that name.
        interp.models._refused.RefusedFamily: models of that type are refused.
    """
    if not isinstance(model_type, str):
        return model_type
    check_allowed(model_type)
    try:
        return plugins.get("models", model_type.replace("-", "_"))
    except plugins.UnknownName as error:
        known = ", ".join(plugins.names("models"))
        raise plugins.UnknownName(
            f"no model family for model_type {model_type!r}; there are: {known}. A new one is one file: "
            f"interp/models/{model_type.replace('-', '_')}.py"
        ) from error


def load(family: Any, checkpoint: str, **from_pretrained: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in eval mode, and its processor.

    Raises:
        interp.models._hf.NoSuchClass: this version of transformers does not have the family's class.
        interp.models._hf.BrokenCheckpoint: weights that are missing or have other shapes.
    """
    if own := getattr(family, "load", None):
        return own(checkpoint, **from_pretrained)
    return _hf.load(_hf.class_named(family.architecture), checkpoint, **from_pretrained)


def decoder(family: Any, model: Any) -> torch.nn.Module:
    """The part of the model whose layers' attention is recorded: the language model."""
    own = getattr(family, "decoder", None)
    return own(model) if own else model.get_decoder()


def template(family: Any, processor: Any, prompt: str) -> str:
    """The whole text before the answer, with one image place.

    Raises:
        ValueError: empty prompt, several image places, or no template to put the prompt in.
    """
    own = getattr(family, "template", None)
    return own(processor, prompt) if own else _hf.template(processor, prompt)


def prepare(
    family: Any, processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], options: Mapping[str, Any]
) -> dict[str, Tensor]:
    """Inputs of ``model.forward`` and ``model.generate``, on the CPU; left-padded where the lengths differ.

    Raises:
        ValueError: options for a family whose ``prepare`` takes none.
    """
    own = getattr(family, "prepare", _hf.prepare)
    if options and not any(p.kind is p.VAR_KEYWORD for p in inspect.signature(own).parameters.values()):
        raise ValueError(
            f"the family {family.__name__.rpartition('.')[2]} takes no processor options, but got {dict(options)}; "
            "leave them out, or let its prepare() take **options"
        )
    # What is no attribute of the image processor (min_pixels) has been made part of one (size) when it was copied.
    asked = {name: x for name, x in options.items() if hasattr(processor.image_processor, name)}
    return own(processor, images, texts, **asked)


def grid(
    family: Any, model: Any, processor: Any, image_size: tuple[int, int], inputs: Mapping[str, Tensor]
) -> PatchGrid:
    """The tokens of one image, from its sample's own inputs (`own_inputs`)."""
    last = list(inspect.signature(family.grid).parameters)[-1]
    return family.grid(model, processor, image_size, inputs["input_ids"] if last == "input_ids" else inputs)


def own_inputs(inputs: Mapping[str, Tensor], sample: int) -> dict[str, Tensor]:
    """One sample's part of a batch's inputs: its row of every tensor that has one for each sample, without the padding
    of the tokens. What is packed (the patches of all images in one row) is left out."""
    samples, length = inputs["input_ids"].shape
    mask = inputs.get("attention_mask")
    padding = 0 if mask is None else int((mask[sample] == 0).sum())
    rows = {name: x[sample] for name, x in inputs.items() if x.ndim and len(x) == samples}
    return {name: x[padding:] if x.shape[:1] == (length,) else x for name, x in rows.items()}
