"""What the families share that transformers ships: strict loading, the text before the answer, the processor's call."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from jaxtyping import Int
from PIL import Image
from torch import Tensor
from transformers import AutoProcessor

from interp.models._config import check_processor, check_settings
from interp.models._folder import BASE
from interp.models._processor import load_processor

HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")


class BrokenCheckpoint(ValueError):
    """A checkpoint lacks weights, or holds weights of another shape or that are not numbers.

    What to do: fetch or train again the weights that the message names.
    """


class NoSuchClass(ImportError):
    """The installed transformers does not have the class of a model family.

    What to do: install a version that has it; the message names the class.
    """


def class_named(architecture: str) -> Any:
    """The class of that name in transformers.

    Raises:
        NoSuchClass: there is none.
    """
    try:
        return getattr(transformers, architecture)
    except AttributeError as error:
        raise NoSuchClass(
            f"transformers {transformers.__version__} has no {architecture}; install a version that has it"
        ) from error


def load(
    model_class: Any, checkpoint: str, processor_class: Any = AutoProcessor, **from_pretrained: Any
) -> tuple[torch.nn.Module, Any]:
    """The model in eval mode and its processor.

    Raises:
        BrokenCheckpoint: with the names of the weights that the checkpoint lacks or has in other shapes. transformers
            would fill them with random numbers and go on.
    """
    options = {"ignore_mismatched_sizes": True, **from_pretrained}  # an error below, with names and shapes
    model, info = model_class.from_pretrained(checkpoint, output_loading_info=True, **options)
    if (other := sorted(info["mismatched_keys"])) and "ignore_mismatched_sizes" not in from_pretrained:
        told = [f"{name} {tuple(came)}, expected {tuple(wanted)}" for name, came, wanted in other]
        raise BrokenCheckpoint(
            f"{checkpoint} has {len(other)} weights of other shapes than its config.json says: {listed(told)}. Take "
            "the weights and the config.json of one model"
        )
    if missing := sorted(info["missing_keys"]):
        raise BrokenCheckpoint(
            f"{checkpoint} lacks {len(missing)} of the weights of {model_class.__name__}: {listed(missing)}. "
            "Download or save it again."
        )
    hub = {k: v for k, v in from_pretrained.items() if k in HUB_OPTIONS}
    return model.eval(), completed(load_processor(_with_processor(checkpoint), processor_class, **hub), model.config)


def completed(processor: Any, config: Any) -> Any:
    """The processor; or, if it was saved before 2025, a copy with three settings that only the model had."""
    vision = getattr(config, "vision_config", None)
    strategy = getattr(config, "vision_feature_select_strategy", None)
    wanted = {"patch_size": getattr(vision, "patch_size", None), "vision_feature_select_strategy": strategy}
    if getattr(processor, "vision_feature_select_strategy", None) in (None, strategy):  # CLIP has a class token
        wanted["num_additional_image_tokens"] = int("clip_vision" in getattr(vision, "model_type", ""))
    missing = {k: v for k, v in wanted.items() if v and hasattr(processor, k) and not getattr(processor, k)}
    if missing:
        processor = copy.copy(processor)
        for name, value in missing.items():
            setattr(processor, name, value)
    check_together(processor, config)
    return processor


def check_together(processor: Any, config: Any) -> None:
    """Nothing, if a processor that counts an image's tokens counts as many as the model makes features.

    Raises:
        BrokenCheckpoint: patches of another size, or a class token in the one and not in the other.
    """
    vision: Any = getattr(config, "vision_config", None)
    counts = hasattr(processor, "num_additional_image_tokens") and "clip_vision" in getattr(vision, "model_type", "")
    if not counts or not config.model_type.startswith("llava"):
        return
    images, own = processor.image_processor, getattr(config, "vision_feature_select_strategy", None)
    kept = int(processor.num_additional_image_tokens or 0) - (processor.vision_feature_select_strategy == "default")
    counted = [
        ("pixels a patch's side", processor.patch_size, vision.patch_size),
        ("tokens beside an image's patches", kept, 1 - (own == "default")),
    ]
    if getattr(images, "do_center_crop", False) and getattr(images, "crop_size", None):
        counted += [(f"pixels of {side}", images.crop_size[side], vision.image_size) for side in ("height", "width")]
    for name, here, there in counted:
        if here != there:
            raise BrokenCheckpoint(
                f"the processor has {here} {name}, the model {there}; they do not belong together: take the "
                "processor_config.json and the config.json of one model"
            )


def _with_processor(checkpoint: str) -> str:
    """The checkpoint's folder, or base/ beside it where training saved the processor there alone."""
    files, base = ("processor_config.json", "preprocessor_config.json"), Path(checkpoint).parent / BASE
    own, beside = (any((folder / file).is_file() for file in files) for folder in (Path(checkpoint), base))
    place = base if Path(checkpoint).is_dir() and beside and not own else Path(checkpoint)
    if place.is_dir():
        check_settings(place)
        check_processor(place)
        return str(place)
    return checkpoint


def listed(names: Sequence[str], limit: int = 20) -> str:
    """The names joined by commas; after ``limit`` names only how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more


def check_text(what: str, text: str) -> None:
    """Nothing, if every character of the text is one.

    Raises:
        ValueError: a half of a character (a lone surrogate), which no tokenizer takes.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the {what} {text!r} holds half a character at {error.start}; expected text as UTF-8: give it again, or "
            "leave that character out"
        ) from error


def template(processor: Any, prompt: str, fallback: str | None = None) -> str:
    """The whole text before the answer, with one image place.

    A prompt that has an image place already counts as a whole template and comes back as it is.

    Raises:
        ValueError: empty prompt, several image places, or no template to put the prompt in.
    """
    mark = processor.image_token
    check_text("prompt", prompt)
    if prompt.count(mark) < 2 and not prompt.replace(mark, "").strip():
        raise ValueError(f"the prompt is empty ({prompt!r}); give it a text such as 'Describe the image in detail.'")
    if prompt.count(mark) == 1:
        return prompt
    if prompt.count(mark) > 1:
        raise ValueError(
            f"the prompt has {prompt.count(mark)} image places ({mark}) for one image: {prompt!r}. Leave {mark} out, "
            "or give a whole template with one."
        )
    if getattr(processor, "chat_template", None):
        said = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": prompt}]}]
        try:
            text = str(processor.apply_chat_template(said, add_generation_prompt=True, tokenize=False))
        except Exception as error:  # a template is a program: it may raise anything
            raise ValueError(
                f"the processor's chat template fails on the prompt {prompt!r} ({type(error).__name__}: {error}); mend "
                f"the template, or give the whole text before the answer, with {mark} for the image"
            ) from error
    elif fallback:
        text = fallback.format(image=mark, prompt=prompt)
    else:
        raise ValueError(
            f"the processor has no chat template; give the whole text before the answer, with {mark} for the image"
        )
    if text.count(mark) != 1:
        raise ValueError(
            f"the processor's chat template leaves {text.count(mark)} image places ({mark}) in {text!r}; expected one"
        )
    bos = processor.tokenizer.bos_token
    if bos and text.startswith(bos) and processor.tokenizer("a").input_ids[0] == processor.tokenizer.bos_token_id:
        return text.removeprefix(bos)  # the tokenizer puts it there by itself
    return text


def prepare(processor: Any, images: Sequence[np.ndarray], texts: Sequence[str], **options: Any) -> dict[str, Tensor]:
    """Inputs of ``model.forward`` and ``model.generate``, on the CPU; left-padded where the lengths differ. ``options``
    are the image processor's.

    Raises:
        ValueError: several texts and a tokenizer without a padding token.
    """
    if len(texts) > 1 and processor.tokenizer.pad_token is None:
        raise ValueError("the tokenizer has no padding token: set processor.tokenizer.pad_token, or use a batch of 1")
    # As PIL images: of an array of 3 x W x 3 the processor cannot tell which axis holds the colours.
    with warnings.catch_warnings():  # some count tokens in tensors in a way that numpy warns of (GLM-4V)
        warnings.simplefilter("ignore", DeprecationWarning)
        inputs = processor(
            images=[Image.fromarray(np.ascontiguousarray(image)) for image in images],
            text=list(texts),
            padding=len(texts) > 1,
            padding_side="left",
            return_tensors="pt",
            **options,
        )
    return {name: x for name, x in dict(inputs).items() if name != "labels"}  # of training


def image_positions(input_ids: Tensor, image_token_id: int) -> Int[np.ndarray, " patch"]:
    """Where the image's tokens stand in one sample's ``input_ids``."""
    return (input_ids.reshape(-1) == image_token_id).nonzero().flatten().cpu().numpy()


def check_count(positions: Int[np.ndarray, " token"], expected: int, told: str, image_size: tuple[int, int]) -> None:
    """Nothing, if the text holds as many image tokens as the image gives.

    Raises:
        ValueError: it does not; ``told`` says what the image gives.
    """
    if len(positions) != expected:
        raise ValueError(
            f"the text holds {len(positions)} image tokens, but an image of {image_size[0]} x {image_size[1]} pixels "
            f"gives {told} = {expected}; model and processor do not belong together"
        )
