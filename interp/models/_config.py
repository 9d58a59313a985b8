"""A checked reading of what a model's folder says of itself: every file of settings is an object of JSON whose fields
are of their kinds. What is wrong shows before anything is built. What a hub id names is left to transformers.

Fields that are not listed are the model's own and pass as they are.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, StrictFloat, StrictInt, StrictStr, TypeAdapter, ValidationError
from typing_extensions import TypedDict

from interp.work.documents import BrokenDocument, read_document

CONFIG = "config.json"
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "sentencepiece.bpe.model")
TEMPLATE = "chat_template.jinja"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")
HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
_LIMIT = 10**7
"""No size of a layer or number of layers is larger; one that is costs minutes or all memory before it fails."""


class BrokenConfig(ValueError):
    """A file of a model's folder cannot be read as transformers writes it, or does not go with the others.

    What to do: fetch or save again the file that the message names; or correct the field.
    """


def _plain_number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("Input should be a number")
    return value


Count = Annotated[StrictInt, BeforeValidator(_plain_number), Field(ge=1, le=_LIMIT)]
Natural = Annotated[StrictInt, BeforeValidator(_plain_number), Field(ge=0, le=_LIMIT)]
Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Positive = Annotated[StrictFloat, Field(gt=0, allow_inf_nan=False)]
Colours = Field(min_length=3, max_length=3)
Sizes = Count | list[Count] | dict[str, Any] | None
Ids = Natural | list[Natural] | None


class _Part(TypedDict, total=False):
    model_type: StrictStr
    hidden_size: Sizes
    intermediate_size: Sizes
    vocab_size: Count | None
    num_hidden_layers: Sizes
    num_attention_heads: Sizes
    num_key_value_heads: Sizes
    patch_size: Sizes
    image_size: Sizes


class Config(_Part):
    """config.json of any model: it says what it is of, and its sizes are sizes."""

    model_type: StrictStr


class Multimodal(Config, total=False):
    """config.json of a model whose parts have settings of their own."""

    text_config: _Part
    vision_config: _Part


class _Images(TypedDict, total=False):
    image_mean: Number | Annotated[list[Number], Colours] | None
    image_std: Positive | Annotated[list[Positive], Colours] | None
    size: Count | list[Count] | dict[str, Count | None] | None
    crop_size: Count | list[Count] | dict[str, Count | None] | None


class _Processor(_Images, total=False):
    image_processor: _Images
    patch_size: Count | dict[str, Count] | None
    vision_feature_select_strategy: Annotated[StrictStr, Field(pattern="^(default|full)$")] | None
    num_additional_image_tokens: Natural | None
    image_token: StrictStr | dict[str, Any] | None


class _Generation(TypedDict, total=False):
    eos_token_id: Ids
    bos_token_id: Ids
    pad_token_id: Ids
    max_length: Count | None
    temperature: Number | None
    top_p: Number | None
    top_k: Natural | None


class _Index(TypedDict):
    weight_map: dict[str, StrictStr]


_FILES: dict[str, type] = {
    "generation_config.json": _Generation,
    **dict.fromkeys(PROCESSORS, _Processor),
    "model.safetensors.index.json": _Index,
    **dict.fromkeys(("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.json"), dict),
}


def check_source(name: str, what: str) -> None:
    """Nothing, if the name is a folder's, or may be a hub id.

    Raises:
        FileNotFoundError: neither; a hub would answer with a riddle.
    """
    if Path(name).is_dir():
        return
    if Path(name).exists():
        raise FileNotFoundError(f"{name} is a file; expected the folder of {what}, or a hub id")
    if not HUB_ID.fullmatch(name):
        raise FileNotFoundError(f"there is no folder {name!r}, and it is no hub id (NAMESPACE/NAME) of {what}")


def read_config(folder: Path, schema: type = Config) -> dict[str, Any]:
    """The folder's config.json.

    Raises:
        BrokenConfig: it is no object that names a ``model_type``, or a size in it is none.
    """
    return _checked(folder / CONFIG, read_object(folder / CONFIG), schema)


def read_index(path: Path) -> dict[str, str]:
    """Which file holds each tensor, from the index of a model in several files."""
    return _checked(path, read_object(path), _Index)["weight_map"]


def check_settings(folder: Path) -> None:
    """Nothing, if every file of settings in the folder can be read."""
    for name, schema in _FILES.items():
        path = folder / name
        if path.exists() or path.is_symlink():
            _checked(path, read_object(path), schema)
    template = folder / TEMPLATE
    try:
        if template.exists():
            template.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenConfig(f"{template} is no text in UTF-8 ({error}); fetch or save it again") from error


def check_processor(folder: Path) -> None:
    """Nothing, if the folder has a processor and a tokenizer; their settings are `check_settings`' work."""
    check_images(folder)
    _check_any(folder, "tokenizer", TOKENIZERS)


def check_images(folder: Path) -> None:
    """Nothing, if the folder has a processor of images."""
    _check_any(folder, "processor", PROCESSORS)


def _check_any(folder: Path, what: str, files: Sequence[str]) -> None:
    if not any((folder / file).is_file() for file in files):
        raise BrokenConfig(f"the folder {folder} has no {what} ({', '.join(files)}); copy it from the model's base")


def read_object(path: Path) -> dict[str, Any]:
    """The object of JSON in a file.

    Raises:
        BrokenConfig: no regular file, not UTF-8, not JSON, nested too deep, or not an object.
    """
    try:
        return read_document(path, dict)
    except BrokenDocument as error:
        raise BrokenConfig(str(error)) from error


@cache
def _adapter(schema: type) -> Any:
    return TypeAdapter(schema)


def _checked(path: Path, found: dict[str, Any], schema: type) -> dict[str, Any]:
    try:
        _adapter(schema).validate_python(found)
    except ValidationError as error:
        # Of a choice's errors, that of the kind which the value is, and which lies deepest.
        first = max(error.errors(include_url=False), key=lambda e: (not e["type"].endswith("_type"), len(e["loc"])))
        place = ".".join(str(part) for part in first["loc"] if isinstance(part, str) and part in _fields(found))
        came = "" if first["type"] == "missing" else f", got {first['input']!r:.80}"
        raise BrokenConfig(
            f"{path}: {place or first['loc'][0]}: {first['msg'].removeprefix('Value error, ')}{came}; correct it, or "
            "fetch or save the file again"
        ) from error
    return found


def _fields(found: Any) -> set[str]:
    """All keys of an object and of those in it."""
    if not isinstance(found, dict):
        return set()
    return set(found).union(*(_fields(value) for value in found.values()))
