"""What DiffLMM's released files hold, read and checked: its projector, its parts, its settings."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import is_offline_mode
from torch import Tensor
from transformers.utils.hub import cached_file

from interp.models._config import read_object
from interp.models._hf import listed
from interp.models._overlay import stored_in

LANGUAGE_MODEL = "lmsys/vicuna-7b-v1.5"


DIFFUSION = "stable-diffusion-v1-5/stable-diffusion-v1-5"


CLIP = "openai/clip-vit-large-patch14-336"


TRAINED = "non_lora_trainables.bin"


FILES = (TRAINED, "config.json", "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")


PREFIX = "base_model.model.model.mm_projector."


NAMES = {
    "clip_projector.": "captioner.",
    "clip_pe": "caption_position",
    "sd_norm_layer.": "norm.",
    "sd_proj_layer.": "reduce.",
    "linear.": "linear.",
    "vt_pe": "position",
}
"""Released name -> name here, each with all that follows it."""


SETTINGS = {
    "mm_vision_resolution": "image_size",
    "mm_vision_sd_timestep": "timestep",
    "mm_vision_sd_ensemble_size": "ensemble_size",
    "mm_vision_select_layer": "up_block_index",
}
"""What a released ``config.json`` says -> what it is called here."""


ALWAYS = ("mm_vision_sd_implicit_caption", "mm_vision_sd_concat_clip")
"""What must be on where a released ``config.json`` speaks of it: the implicit captioner, and CLIP's own tokens."""


UNUSED = {
    "clip": ("text_model.", "logit_scale", "text_projection.", "visual_projection.", "position_ids"),
    "language model": ("rotary_emb.inv_freq",),
}
"""Parts of names that a checkpoint may hold and DiffLMM does not need."""


class ConversionError(ValueError):
    """DiffLMM's published parts are incomplete, do not fit or hold what nobody asked for.

    What to do: fetch again the part whose keys the message lists, or name the parts that it was trained on
    (``interp convert difflmm --help``).
    """


def file_of(source: str | os.PathLike[str], name: str, hub: Mapping[str, Any]) -> str | None:
    """Where the file lies; None if the source has no such file. A source that cannot be reached is an OSError."""
    asked = {k: v for k, v in hub.items() if k != "trust_remote_code"}
    return cached_file(source, name, **asked, _raise_exceptions_for_missing_entries=False)


def projector_of(source: str, hub: Mapping[str, Any]) -> dict[str, Tensor]:
    """The released projector's weights under the names that they have here; the convolution of 1 x 1 as a matrix."""
    path = file_of(source, TRAINED, hub)
    if path is None and is_offline_mode() and not Path(source).is_dir():
        raise OSError(
            f"{source} is no folder, its {TRAINED} is not in the cache, and HF_HUB_OFFLINE forbids to fetch it"
        )
    if path is None:
        raise ConversionError(f"{source} holds no {TRAINED}; expected a folder or hub id of released DiffLMM weights")
    found, left = {}, []
    for key, weight in stored_in(Path(path)).items():
        old = next((old for old in NAMES if key.startswith(PREFIX + old)), None)
        if old is None:
            left.append(key)
            continue
        found[NAMES[old] + key.removeprefix(PREFIX + old)] = weight.flatten(1) if weight.ndim == 4 else weight
    if left and not found:
        raise ConversionError(
            f"{TRAINED} of {source} is not of a DiffLMM: it holds {', '.join(sorted(left)[:3])}, expected keys such as "
            f"{PREFIX}sd_norm_layer.weight. A LLaVA's LoRA run: interp convert llava {source} OUT; adapters of other "
            "models: merge them with PEFT and load the merged folder"
        )
    refuse(f"{TRAINED} of {source}", [], left)
    return found


def rows_in(projector: Mapping[str, Tensor], name: str) -> int | None:
    return len(projector[name]) if name in projector else None  # if it is missing, `_assembled` will say so


def settings_of(source: str, hub: Mapping[str, Any]) -> dict[str, Any]:
    path = file_of(source, "config.json", hub)
    given = read_object(Path(path)) if path else {}
    if wrong := [f"{name} {given[name]!r}" for name in ALWAYS if not given.get(name, True)]:
        raise ConversionError(f"config.json of {source} has {', '.join(wrong)}; expected true: DiffLMM has both")
    return {ours: given[theirs] for theirs, ours in SETTINGS.items() if given.get(theirs) is not None}


def in_llava(key: str) -> str:
    return key if key.startswith("lm_head.") else f"model.language_model.{key.removeprefix('model.')}"


def needless(unexpected: Iterable[str], part: str) -> list[str]:
    return [key for key in unexpected if not any(name in key for name in UNUSED[part])]


def refuse(what: str, missing: Iterable[str], left: Iterable[str]) -> None:
    problems = [f"missing keys: {listed(sorted(missing))}"] * bool(missing)
    problems += [f"keys left over: {listed(sorted(left))}"] * bool(left)
    if problems:
        raise ConversionError(f"{what} holds other weights than expected: {'; '.join(problems)}")
