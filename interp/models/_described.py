"""Whether a folder's weights are those that its config.json describes, told from the heads of the files, before a model
is built: one with a size that is wrong costs minutes or all memory until transformers finds out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PreTrainedConfig

from interp.models._config import CONFIG, BrokenConfig, Multimodal, check_settings, read_config
from interp.models._shared import SHARED

Shapes = Mapping[str, tuple[int, ...]]


def check_model(folder: Path) -> None:
    """Nothing, if the folder's settings can be read and its weights are whole and those that config.json describes; or
    if it is no folder, but a hub id.

    Raises:
        BrokenConfig: with the file, what it holds and what was expected.
    """
    if not folder.is_dir():
        return
    given = read_config(folder, Multimodal)
    found = check_folder(folder)
    whole = sorted(name for name, (kind, _) in found.items() if kind in ("I8", "U8") and name.endswith(".weight"))
    if whole and not given.get("quantization_config"):
        raise BrokenConfig(
            f"{folder} holds whole numbers of 8 bits in {whole[0]}, and {CONFIG} has no quantization_config; save the "
            "weights as floating-point numbers, or with how they were quantised"
        )
    config = _resolved(folder, given)
    if config is not None:
        _check_sight(folder, config)
        if found and not (folder / SHARED).exists() and not any(folder.glob("*.bin")):  # else more lie elsewhere
            _check_sizes(folder, config, {name: shape for name, (_, shape) in found.items()})


def check_folder(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Type and shape of the tensors in the folder of any model, after a look at all its files of settings.

    Raises:
        BrokenConfig: as `check_model`.
    """
    read_config(folder)
    check_settings(folder)
    found = {name: kind for path in sorted(folder.glob("*.safetensors")) for name, kind in heads_of(path).items()}
    if not found and not any(folder.glob("*.bin")):
        raise BrokenConfig(f"the folder {folder} has a {CONFIG} and no weights (model.safetensors or its shards)")
    return found


def heads_of(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Each tensor's type and shape, from the file's head.

    Raises:
        BrokenConfig: no regular file, or one that is cut off or damaged.
    """
    if not path.is_file():
        raise BrokenConfig(f"{path} is no regular file; expected one that holds weights")
    try:
        with safe_open(path, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118
            return {name: (str(s.get_dtype()), tuple(s.get_shape())) for name, s in slices.items()}
    except (SafetensorError, OSError) as error:
        raise BrokenConfig(f"{path} is cut off or damaged ({error}); fetch or save it again") from error


def _resolved(folder: Path, given: Mapping[str, Any]) -> PreTrainedConfig | None:
    """The configuration with transformers' defaults; None of a kind that it does not know."""
    rest = {name: value for name, value in given.items() if name != "model_type"}
    try:
        return AutoConfig.for_model(given["model_type"], **rest)
    except ValueError as error:
        if "Unrecognized model" in str(error):
            return None
        why = error
    except Exception as error:  # the reader of each kind raises what it likes
        why = error
    told = " ".join(str(why).split())[:300]
    raise BrokenConfig(f"{folder / CONFIG} cannot be used ({told}); fetch or save it again") from why


def _check_sight(folder: Path, config: PreTrainedConfig) -> None:
    chosen = getattr(config, "vision_feature_layer", None)
    layers = getattr(getattr(config, "vision_config", None), "num_hidden_layers", None)
    for layer in chosen if isinstance(chosen, list) else [chosen]:
        if isinstance(layer, int) and isinstance(layers, int) and not -layers - 1 <= layer <= layers:
            raise BrokenConfig(
                f"{folder / CONFIG} takes the image's features from vision_feature_layer {layer}; expected one of the "
                f"{layers} layers that its vision_config has, -1 being the last"
            )


def _check_sizes(folder: Path, config: PreTrainedConfig, shapes: Shapes) -> None:
    text = config.get_text_config(decoder=True)
    numbers = [int(n) for name in shapes for n in re.findall(r"\.(\d{1,9})(?=\.)", name)]
    for part in (text, getattr(config, "vision_config", None)):
        layers = getattr(part, "num_hidden_layers", 0)
        if isinstance(layers, int) and layers > max(numbers, default=0) + 1:
            raise BrokenConfig(
                f"{folder / CONFIG} says num_hidden_layers {layers}, and the weights beside it lack those from layer "
                f"{max(numbers, default=0) + 1}; take the weights and the {CONFIG} of one model"
            )
    wide = [shape[-1] for name, shape in shapes.items() if name.endswith("embed_tokens.weight")]
    if wide and text.hidden_size not in wide:
        raise BrokenConfig(
            f"{folder / CONFIG} says hidden_size {text.hidden_size} of the language model, and the weights beside it "
            f"have {wide[0]}; take the weights and the {CONFIG} of one model"
        )
