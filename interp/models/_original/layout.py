"""Whether a place holds LLaVA in its own code's layout, of a kind that can be converted: from ``config.json`` alone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from interp.models._stored import file_of

PROJECTORS = ("mlp2x_gelu", "linear")
SETTINGS: dict[str, tuple[Any, ...]] = {
    "model_type": ("llava", "llava_llama"),
    "mm_projector_type": (None, *PROJECTORS),
    "mm_vision_select_feature": (None, "patch", "cls_patch"),
    "image_aspect_ratio": (None, "pad", "square"),
    "mm_patch_merge_type": (None, "flat"),
    "mm_use_im_start_end": (None, False),
    "mm_resampler_type": (None,),
    "s2": (None, False),
}
"""What can be converted, of each setting; None where it is not given."""
OF_NO_ACCOUNT = {
    "mm_hidden_size",
    "mm_vision_tower",
    "mm_vision_select_layer",
    "mm_use_im_patch_token",
    "mm_projector_lr",
    "mm_vision_tower_lr",
    "mm_tunable_parts",
}
"""Other settings that change nothing here, or are looked at elsewhere."""


class OriginalLayout(ValueError):
    """A checkpoint in the layout of LLaVA's own code that cannot be used as it is: not converted yet, not whole, or of
    a kind that has no counterpart here.

    What to do: run ``interp convert llava SOURCE OUT`` and use OUT; the message says what is missing or refused.
    """


def config_of(place: str | os.PathLike[str], **hub: Any) -> dict[str, Any] | None:
    """The configuration of an original LLaVA, from the place or from the run that this checkpoint-N lies in; None if
    there is none, or it is of another layout."""
    config = _json(file_of(place, "config.json", **hub))
    if config is None and re.fullmatch(r"checkpoint-\d+", Path(place).name):
        config = _json(file_of(Path(place).parent, "config.json")) if Path(place).is_dir() else None
    return config if config is not None and is_original(config) else None


def model_type(place: str | os.PathLike[str]) -> str | None:
    """What the configuration at the place says that its model is; None if there is none."""
    return (_json(file_of(place, "config.json")) or {}).get("model_type")


def is_original(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of LLaVA's own code. DiffLMM's has another projector and is none."""
    ours = "mm_vision_tower" in config or "mm_projector_type" in config
    difflmm = "SDCLIP" in str(config.get("mm_projector_type")) or any(k.startswith("mm_vision_sd") for k in config)
    return ours and not difflmm and not config.get("vision_config")


def refused(config: Mapping[str, Any]) -> str:
    """What in the configuration has no counterpart here, with what would have; empty if nothing is."""
    problems = [
        f"{name} {config[name]!r} (expected {' or '.join(repr(v) for v in known if v is not None) or 'none'})"
        for name, known in SETTINGS.items()
        if config.get(name) not in known
    ]
    layer = config.get("mm_vision_select_layer")
    if not isinstance(layer, int) or isinstance(layer, bool):
        problems.append(f"mm_vision_select_layer {layer!r} (expected one layer, such as -2)")
    if other := [kind for kind in config.get("architectures") or [] if not kind.startswith(("LlavaLlama", "Llama"))]:
        problems.append(f"architectures {other} (expected LlavaLlamaForCausalLM)")
    known = OF_NO_ACCOUNT | SETTINGS.keys()
    problems += [
        f"{k} {v!r} (not known here)" for k, v in config.items() if k.startswith("mm_") and k not in known and v
    ]
    return ", ".join(problems)


def check_converted(place: str | os.PathLike[str], **hub: Any) -> None:
    """Nothing, unless the place is in the original layout; nothing but its configuration is read.

    Raises:
        OriginalLayout: with the command that converts it.
    """
    if (config := config_of(place, **hub)) is not None:
        told_to_convert(os.fspath(place), config)


def told_to_convert(place: str, config: Mapping[str, Any]) -> None:
    """Raises:
    OriginalLayout: with the command that converts it, or what in it cannot be.
    """
    if problems := refused(config):
        raise OriginalLayout(
            f"{place} is in the original LLaVA layout, and of a kind that cannot be converted: {problems}. Take a "
            "release for transformers, such as those of llava-hf"
        )
    raise OriginalLayout(
        f"{place} is in the original LLaVA layout; run interp convert llava {place} OUT, and load OUT (a LoRA run or a "
        "projector needs --language-model where its files do not name one that is here)"
    )


def read_json(path: Path) -> dict[str, Any]:
    """The object in the file.

    Raises:
        OriginalLayout: it is none.
    """
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise OriginalLayout(f"{path} is not JSON ({error}); fetch or save it again") from error
    if not isinstance(found, dict):
        raise OriginalLayout(f"{path} holds a {type(found).__name__}; expected an object with settings")
    return found


def _json(path: Path | None) -> dict[str, Any] | None:
    """None also for a damaged file: whoever loads it says so."""
    try:
        return None if path is None else read_json(path)
    except OriginalLayout:
        return None
