"""Configuration, processor and model of an original LLaVA, as transformers' LLaVA has them."""

from __future__ import annotations

from typing import Any

import torch
from accelerate import init_empty_weights
from transformers import (
    AddedToken,
    AutoImageProcessor,
    AutoTokenizer,
    CLIPVisionConfig,
    GenerationConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaImageProcessorPil,
    LlavaProcessor,
)

from interp.models._original.layout import OriginalLayout, read_json
from interp.models._original.parts import Parts
from interp.models._original.prompt import chat_template
from interp.models._original.weights import Weights
from interp.models._stored import file_of

MULTIPLE = 64
"""Of which the vocabulary's rows are one, as in llava-hf's releases."""
SIZES = (set(LlamaConfig().to_dict()) | {"rope_theta", "rope_scaling"}) - {
    "architectures",
    "dtype",
    "model_type",
    "transformers_version",
    "_name_or_path",
}
"""Of an original configuration what is the language model's."""
STEPS = ("do_convert_rgb", "do_resize", "size", "resample", "do_center_crop", "crop_size")
STEPS += ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")


def built(parts: Parts) -> tuple[Weights, LlavaConfig, LlavaProcessor]:
    """The weights, which fit the configuration, and the processor.

    Raises:
        OriginalLayout: parts that do not fit each other, or are not there.
    """
    weights = Weights(parts)
    tokenizer = tokenizer_of(parts)
    vision = vision_of(parts)
    least = max(weights.own_rows, len(tokenizer))
    weights.rows = -(-least // MULTIPLE) * MULTIPLE
    config = config_of(parts, vision, tokenizer, weights)
    weights.check(config)
    return weights, config, processor_of(parts, config, tokenizer)


def config_of(parts: Parts, vision: Any, tokenizer: Any, weights: Weights) -> LlavaConfig:
    """The configuration of the converted model; ``vision`` is CLIP's."""
    given = parts.config
    text = LlamaConfig.from_dict({k: v for k, v in given.items() if k in SIZES})
    text.update({"vocab_size": weights.rows, "tie_word_embeddings": False, "pad_token_id": tokenizer.pad_token_id})
    full = given.get("mm_vision_select_feature") == "cls_patch"
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + full,
        projector_hidden_act="linear" if given.get("mm_projector_type", "linear") == "linear" else "gelu",
        vision_feature_select_strategy="full" if full else "default",
        vision_feature_layer=given["mm_vision_select_layer"],
        tie_word_embeddings=False,
    )
    config.architectures = [LlavaForConditionalGeneration.__name__]
    config.dtype = weights.dtype
    return config


def vision_of(parts: Parts) -> CLIPVisionConfig:
    """The vision tower's configuration.

    Raises:
        OriginalLayout: no CLIP there.
    """
    path = file_of(parts.clip, "config.json")
    if path is None:
        raise OriginalLayout(
            f"the vision tower {parts.clip} is not here and not to be had from the hub; name CLIP with --clip"
        )
    kind = read_json(path).get("model_type")
    if kind not in ("clip", "clip_vision_model"):
        raise OriginalLayout(f"the vision tower {parts.clip} is a {kind}; expected a CLIP")
    return CLIPVisionConfig.from_pretrained(str(path.parent))


def tokenizer_of(parts: Parts) -> Any:
    """The language model's tokenizer with ``<image>`` and ``<pad>`` behind all others, as llava-hf has them.

    Raises:
        OriginalLayout: there is none.
    """
    try:
        # With a configuration of a Llama, lest transformers read the original's, which it does not know.
        tokenizer = AutoTokenizer.from_pretrained(parts.language_model, config=LlamaConfig())
    except (OSError, ValueError, ImportError, TypeError, KeyError) as error:
        why = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise OriginalLayout(f"the tokenizer of {parts.language_model} cannot be loaded: {why}") from error
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    tokenizer.add_special_tokens({"pad_token": "<pad>"})
    return tokenizer


def processor_of(parts: Parts, config: LlavaConfig, tokenizer: Any) -> LlavaProcessor:
    """CLIP's processing; before it, where the run's ``image_aspect_ratio`` is ``pad``, a frame of the mean colour.

    Raises:
        OriginalLayout: CLIP's folder does not say how it takes images.
    """
    if (
        path := file_of(parts.clip, "preprocessor_config.json") or file_of(parts.clip, "processor_config.json")
    ) is None:
        raise OriginalLayout(f"the vision tower {parts.clip} has no preprocessor_config.json; fetch it again")
    given = AutoImageProcessor.from_pretrained(str(path.parent)).to_dict()
    padded = parts.config.get("image_aspect_ratio") == "pad"
    vision: Any = config.vision_config
    return LlavaProcessor(
        image_processor=LlavaImageProcessorPil(**{k: v for k, v in given.items() if k in STEPS}, do_pad=padded),
        tokenizer=tokenizer,
        patch_size=vision.patch_size,
        vision_feature_select_strategy=config.vision_feature_select_strategy,
        num_additional_image_tokens=1,  # CLIP's class token
        chat_template=chat_template(tokenizer),
    )


def generation_of(tokenizer: Any) -> GenerationConfig:
    """Nothing but where an answer begins and ends."""
    return GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )


def in_memory(parts: Parts, dtype: torch.dtype | str | None = None, **options: Any) -> tuple[torch.nn.Module, Any]:
    """The model, in eval mode, and its processor, as the converted folder would give them; nothing is written.

    Args:
        dtype: of the weights; None or "auto" is the language model's.
        options: ``attn_implementation``.

    Raises:
        OriginalLayout: as `built`.
        TypeError: other options, which need a folder.
    """
    if other := sorted(options.keys() - {"attn_implementation"}):
        raise TypeError(
            f"{', '.join(other)}: not for a LLaVA that is converted in memory; run interp convert llava "
            f"{parts.source} OUT, and give OUT as the base"
        )
    weights, config, processor = built(parts)
    wanted = getattr(torch, dtype) if isinstance(dtype, str) and dtype != "auto" else dtype
    wanted = weights.dtype if wanted in (None, "auto") else wanted
    with init_empty_weights(include_buffers=False):  # buffers are no part of a checkpoint
        model = LlavaForConditionalGeneration._from_config(config, dtype=wanted, **options)
    for name in weights.names:  # one at a time: nothing is in memory twice
        model.load_state_dict({name: weights.read(name, wanted).clone()}, strict=False, assign=True)
    model.generation_config = generation_of(processor.tokenizer)
    model.config._name_or_path = parts.source
    return model.eval().requires_grad_(True), processor
