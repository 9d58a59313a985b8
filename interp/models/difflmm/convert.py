"""DiffLMM as released (an adapter and a projector over public parts) -> one self-contained folder.

The released folder holds a PEFT adapter and ``non_lora_trainables.bin`` (https://github.com/Shengcao-Cao/groundLMM).
Its code hands ``mean`` and ``std`` of 0.5 to CLIP's image processor, which knows these only as ``image_mean`` and
``image_std`` and goes on with CLIP's own. So the released weights were trained on images with CLIP's normalisation and
padding colour, and still with CLIP's input computed as if they had that of 0.5: ``normalisation="released"`` does the
same. ``"paper"`` gives the images mean and deviation 0.5, as the text of the paper and the code intend.
"""

from __future__ import annotations

import json
import os
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer, CLIPVisionModel, GenerationConfig
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.hub import cached_file

from interp.models._config import check_source, read_object
from interp.models._original.prompt import chat_template
from interp.models.difflmm.configuration import SCHEDULER, DiffLMMConfig
from interp.models.difflmm.encoder import number, until_up_block, without_decoder
from interp.models.difflmm.modelling import DiffLMMForConditionalGeneration
from interp.models.difflmm.processing import DiffLMMProcessor
from interp.models.difflmm.released import (
    CLIP,
    DIFFUSION,
    FILES,
    LANGUAGE_MODEL,
    ConversionError,
    file_of,
    in_llava,
    needless,
    projector_of,
    refuse,
    rows_in,
    settings_of,
)

CONVERTER = 2
"""Raised whenever the same parts give another folder than before: what is in the cache is then converted anew."""
NORMALISATIONS = ("released", "paper")
PARTS = ("language_model", "diffusion", "clip", "normalisation")


def convert(
    source: str | os.PathLike[str],
    out: str | os.PathLike[str],
    language_model: str = LANGUAGE_MODEL,
    diffusion: str = DIFFUSION,
    clip: str = CLIP,
    normalisation: str = "released",
    dtype: torch.dtype | None = None,
    **hub: Any,
) -> Path:
    """The folder ``out``, which ``interp.load`` takes. It appears when it is whole.

    Args:
        source, language_model, diffusion, clip: folders or hub ids.
        normalisation: of the images, see the top of this module.
        dtype: of the weights (default: the language model's).
        hub: ``token``, ``cache_dir``, ... for the files of ``source``.

    Raises:
        ConversionError: with the keys that are missing, left over or of another shape.
        FileExistsError: ``out`` holds something.
    """
    out, source = Path(out), os.fspath(source)
    if normalisation not in NORMALISATIONS:
        raise ValueError(f"normalisation is {normalisation!r}; expected 'released' or 'paper'")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} is there already; remove it or give another folder")
    parts_of = {"its language model": language_model, "Stable Diffusion": diffusion, "CLIP": clip}
    for what, place in {"released DiffLMM weights": source, **parts_of}.items():
        check_source(place, what)
    projector = projector_of(source, hub)
    parts, sizes = _frozen_parts(diffusion, clip)
    text, tokenizer = _language_model(source, language_model, hub)
    config = DiffLMMConfig(
        **sizes,
        **settings_of(source, hub),
        text_config=text.config,
        captioner_hidden_size=rows_in(projector, "captioner.0.weight"),
        projector_feature_size=rows_in(projector, "reduce.0.weight"),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    until_up_block(parts["diffusion.unet"], config.up_block_index)
    weights = {f"model.{name}.{k}": v for name, part in parts.items() for k, v in part.state_dict().items()}
    weights |= {f"model.multi_modal_projector.{k}": v for k, v in projector.items()}
    weights |= {in_llava(k): v for k, v in text.state_dict().items()}
    model = _assembled(config, weights, dtype or text.dtype)
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    normal = {"image_mean": OPENAI_CLIP_MEAN, "image_std": OPENAI_CLIP_STD} if normalisation == "released" else {}
    partial = out.with_name(f".{out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        model.save_pretrained(partial)
        processor = DiffLMMProcessor.from_config(config, tokenizer, **normal)
        processor.chat_template = chat_template(tokenizer)
        processor.save_pretrained(partial)
        made_of = {"source": source, "language_model": language_model, "diffusion": diffusion, "clip": clip}
        (partial / "conversion.json").write_text(json.dumps({**made_of, "normalisation": normalisation}, indent=1))
        if out.exists():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def converted(
    source: str | os.PathLike[str],
    language_model: str = LANGUAGE_MODEL,
    diffusion: str = DIFFUSION,
    clip: str = CLIP,
    normalisation: str = "released",
    **hub: Any,
) -> Path:
    """The folder of that conversion in the cache ($INTERP_CACHE, else beside Hugging Face's); made on first use."""
    from huggingface_hub.constants import HF_HOME

    files = [Path(place) for name in FILES if (place := file_of(source, name, hub))]
    made_of: list[Any] = [CONVERTER, *((str(file.absolute()), file.stat().st_mtime_ns) for file in files)]
    made_of += [language_model, diffusion, clip, normalisation]
    cache = Path(os.environ.get("INTERP_CACHE") or Path(HF_HOME) / "interp")
    folder = cache / f"difflmm-{number(repr(made_of).encode()):016x}"
    if not folder.exists():
        cache.mkdir(parents=True, exist_ok=True)
        convert(source, folder, language_model, diffusion, clip, normalisation, **hub)
    return folder


def _frozen_parts(diffusion: str, clip: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """CLIP, the autoencoder without its decoder and the U-Net, by their places in DiffLMM; and their configurations."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    found: Any = CLIPVisionModel.from_pretrained(clip, output_loading_info=True)
    vision, info = found
    refuse(clip, info["missing_keys"], needless(info["unexpected_keys"], "clip"))
    kinds: dict[str, Any] = {"vae": AutoencoderKL, "unet": UNet2DConditionModel}
    loaded = {}
    for name, kind in kinds.items():
        loaded[name], info = kind.from_pretrained(diffusion, subfolder=name, output_loading_info=True)
        refuse(f"{diffusion}/{name}", info["missing_keys"], info["unexpected_keys"])
    path = cached_file(diffusion, "scheduler_config.json", subfolder="scheduler")
    scheduler = {k: v for k, v in read_object(Path(str(path))).items() if k in SCHEDULER}
    sizes = {f"{name}_config": {k: v for k, v in part.config.items() if k[0] != "_"} for name, part in loaded.items()}
    parts = {
        "vision_tower": vision,
        "diffusion.vae": without_decoder(loaded["vae"]),
        "diffusion.unet": loaded["unet"],
    }
    return parts, {**sizes, "vision_config": vision.config, "scheduler_config": scheduler}


def _language_model(source: str, language_model: str, hub: Mapping[str, Any]) -> tuple[Any, Any]:
    """The language model with the adapter merged into it, and its tokenizer with an image token.

    The token may lie outside the model's vocabulary, which stays as it is.
    """
    from peft import PeftModel, get_peft_model_state_dict
    from peft.utils import load_peft_weights

    loaded: Any = AutoModelForCausalLM.from_pretrained(language_model, dtype="auto", output_loading_info=True)
    text, info = loaded
    refuse(language_model, info["missing_keys"], needless(info["unexpected_keys"], "language model"))
    asked = {k: v for k, v in hub.items() if k != "trust_remote_code"}
    found = load_peft_weights(source, device="cpu", **asked).keys()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        warnings.filterwarnings("ignore", "Found missing adapter keys")  # an error below, with their names
        adapted = PeftModel.from_pretrained(text, source, is_trainable=False, torch_device="cpu", **asked)
    expected = get_peft_model_state_dict(adapted).keys()
    refuse(f"the adapter of {source}", expected - found, found - expected)
    tokenizer = AutoTokenizer.from_pretrained(language_model)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token
    tokenizer.add_tokens([AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return adapted.merge_and_unload(), tokenizer


def _assembled(config: DiffLMMConfig, weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    """The model with exactly these weights."""
    with torch.device("meta"):
        model = DiffLMMForConditionalGeneration(config)
    own = model.state_dict()
    refuse("DiffLMM made of these parts", own.keys() - weights.keys(), weights.keys() - own.keys())
    if wrong := [
        f"{k} {tuple(v.shape)} for {tuple(own[k].shape)}" for k, v in weights.items() if v.shape != own[k].shape
    ]:
        raise ConversionError(f"the parts do not fit each other: {', '.join(sorted(wrong))}")
    model.load_state_dict({k: v.to(dtype) for k, v in weights.items()}, assign=True)
    model.config.dtype = dtype
    return model
