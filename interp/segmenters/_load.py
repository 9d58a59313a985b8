"""Segmenters by name, folder or hub id."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from interp import plugins
from interp.contracts import Segmenter
from interp.models._config import CONFIG, check_source, read_config
from interp.plugins import data_folder

SHIPPED = "mini-sam"


def load_segmenter(
    name: str | None = None, checkpoint: str | None = None, device: str | None = None, **options: Any
) -> Segmenter:
    """A segmenter by name: a file of ``segmenters/`` (with its default checkpoint, or the one named), a folder or hub
    id whose ``config.json`` says what it is, or ``mini-sam``. The default is mini-sam where it ships, else threshold.

    Raises:
        UnknownName: no such segmenter, folder or kind of model.
    """
    if name is None:
        name = default_segmenter()
    if name in plugins.names("segmenters"):
        return plugins.get("segmenters", name).load(checkpoint, device, **options)
    place = str(data_folder() / name) if (data_folder() / name / "config.json").is_file() else name
    kind = _model_type(name, place).removesuffix("_video")  # SAM 2's checkpoints are those of its video model
    if kind not in plugins.names("segmenters"):
        raise plugins.UnknownName(
            f"{name} holds a model of type {kind!r}; segmenters are: {', '.join(plugins.names('segmenters'))}"
        )
    loaded = plugins.get("segmenters", kind).load(place, device, **options)
    loaded.name = name
    return loaded


def default_segmenter() -> str:
    """``mini-sam`` where it ships, else ``threshold``."""
    return SHIPPED if (data_folder() / SHIPPED / "config.json").is_file() else "threshold"


def _model_type(name: str, place: str) -> str:
    folder = Path(place)
    if folder.is_dir():
        if not (folder / CONFIG).exists():
            raise plugins.UnknownName(
                f"the folder {name} has no {CONFIG}; expected a segmenter as transformers saves it"
            )
        return str(read_config(folder)["model_type"])
    if "/" not in name:
        plugins.check("segmenters", name)
    check_source(place, "a segmenter")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(place).model_type
    except OSError as error:
        raise plugins.UnknownName(
            f"no segmenter {name} is to be had from the hub ({str(error).splitlines()[0]}); give a folder, or go online"
        ) from error
