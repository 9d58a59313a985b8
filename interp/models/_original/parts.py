"""Which files an original LLaVA is made of: its own, those of its language model and those of CLIP."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.models._folder import ADAPTER_CONFIG, TRAINED
from interp.models._original.layout import OriginalLayout, config_of, is_original, read_json, refused
from interp.models._stored import WHOLE, file_of, files_of

LORA, STAGE_1 = TRAINED
ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class Parts:
    """Where everything lies. ``trained`` holds what was trained beside the language model; ``adapter`` is the folder
    with the changes of the language model."""

    source: str
    config: Mapping[str, Any]
    language_model: str
    clip: str
    trained: Path | None = None
    adapter: Path | None = None


def parts_of(
    source: str | os.PathLike[str],
    language_model: str | None = None,
    clip: str | None = None,
    *,
    adapted: bool = True,
) -> Parts:
    """The parts of a folder or hub id. Language model and CLIP, if not given, are those that its files name; without
    ``adapted`` the language model stays as it was before the run.

    Raises:
        OriginalLayout: another layout, a kind that cannot be converted, or files that are not there.
    """
    source = os.fspath(source)
    config = config_of(source)
    if config is None:
        raise OriginalLayout(f"{source} is not in the original LLaVA layout: {_instead(source)}")
    if problems := refused(config):
        raise OriginalLayout(f"{source} cannot be converted: its config.json has {problems}")
    vision = clip or config.get("mm_vision_tower")
    if not vision:
        raise OriginalLayout(f"config.json of {source} names no mm_vision_tower; name CLIP with --clip")
    if file_of(source, ADAPTER_CONFIG):
        return _lora(source, config, language_model, vision, adapted)
    if any(file_of(source, name) for name in WHOLE):
        if language_model:
            raise OriginalLayout(f"{source} holds a whole model; leave --language-model out")
        return Parts(source, config, source, vision)
    if not (trained := file_of(source, STAGE_1)):
        raise OriginalLayout(
            f"{source} holds no weights: expected {ADAPTER_CONFIG} with {LORA}, or {STAGE_1}, or one of "
            f"{', '.join(WHOLE)}"
        )
    base = language_model or config.get("_name_or_path")
    return Parts(source, config, _language_model(source, base), vision, trained)


def _instead(source: str) -> str:
    """What is there in place of an original LLaVA."""
    path = file_of(source, "config.json")
    if path is None:
        there = Path(source).is_dir()
        return (
            "it has no config.json; copy that of the run into it, or name the run's folder"
            if there
            else "it is no folder, and not to be had from the hub"
        )
    config = read_json(path)
    if any(name.startswith("mm_vision_sd") for name in config):
        return "it is a DiffLMM; run interp convert difflmm"
    if config.get("vision_config"):
        return "it is in transformers' layout; load it as it is"
    return "expected mm_vision_tower and mm_projector_type in its config.json"


def _lora(source: str, config: Mapping[str, Any], base: str | None, vision: str, adapted: bool) -> Parts:
    settings = file_of(source, ADAPTER_CONFIG)
    assert settings is not None  # the caller found it
    if not any(file_of(source, name) for name in ADAPTERS):
        raise OriginalLayout(f"{source} holds half an adapter: no {' or '.join(ADAPTERS)}; fetch or save it again")
    base = base or read_json(settings).get("base_model_name_or_path") or config.get("_name_or_path")
    return Parts(
        source,
        config,
        _language_model(source, base),
        vision,
        projector_beside_adapter(source, config),
        settings.parent if adapted else None,
    )


def projector_beside_adapter(source: str | os.PathLike[str], config: Mapping[str, Any]) -> Path | None:
    """What a LoRA run trained beside its adapter; None if nothing was.

    Raises:
        OriginalLayout: the run trained a projector that is not there.
    """
    trained = file_of(source, LORA)
    if trained is None and not config.get("freeze_mm_mlp_adapter"):
        raise OriginalLayout(
            f"{source} holds an adapter and no {LORA}: LLaVA's training changes the projector too, and writes it only "
            "at its end. Take the run's last folder, or let the training save that file beside each adapter"
        )
    return trained


def _language_model(source: str, base: str | None) -> str:
    """The place, which holds a whole Llama or a whole original LLaVA."""
    hint = "name the language model that it was trained on with --language-model (of a series: base)"
    if not base:
        raise OriginalLayout(f"{source} does not say what language model it was trained on; {hint}")
    path = file_of(base, "config.json")
    if path is None:
        raise OriginalLayout(
            f"{source} was trained on {base}, which is not here and not to be had from the hub; {hint}"
        )
    config = read_json(path)
    if not is_original(config) and config.get("model_type") != "llama":
        raise OriginalLayout(
            f"{base} is a {config.get('model_type')}; expected a Llama such as Vicuna, or a LLaVA in the original "
            "layout"
        )
    if not files_of(base):
        raise OriginalLayout(f"{base} holds no weights of a whole model; expected one of {', '.join(WHOLE)}")
    return base
