"""A capture on disk: one safetensors file that holds all of it, its words as JSON in the file's header. No pickle."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as packed
from torch import Tensor

from interp.types import Capture, PatchGrid, Phrase, View
from interp.work.files import write_bytes

FORMAT = "interp capture 1"
TENSORS = ("attention", "mean", "elsewhere")
ARRAYS = ("kept", "logprobs")


class NoCapture(ValueError):
    """The file is not one that `Capture.save` wrote, or it is damaged.

    What to do: capture again and save it; ``interp capture`` writes ``capture.safetensors`` into its folder.
    """


def save(capture: Capture, path: str | Path) -> Path:
    """The path of the written file; written whole or not at all. Numbers keep their precision, and all views are in it.

    >>> import interp, tempfile
    >>> from interp.datasets import scenes
    >>> scene = scenes.sample("test", 0)
    >>> found = interp.capture(interp.load("mini-llava"), scene.image, scene.prompt, "A cup and a frog.")
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     interp.Capture.load(found.save(f"{folder}/capture.safetensors")) == found
    True
    """
    tensors = {name: value for name in TENSORS if (value := getattr(capture, name)) is not None}
    tensors |= {
        name: torch.from_numpy(np.ascontiguousarray(value))
        for name in ARRAYS
        if (value := getattr(capture, name)) is not None
    }
    grid = capture.grid
    views = grid.views
    for i, view in enumerate(views):
        tensors[f"view{i}"] = torch.from_numpy(np.ascontiguousarray(view.token_index))
    tensors["placeless"] = torch.from_numpy(np.ascontiguousarray(grid.placeless))
    words = {f.name: getattr(capture, f.name) for f in fields(capture) if f.name not in (*TENSORS, *ARRAYS, "grid")}
    words["phrases"] = [asdict(phrase) for phrase in capture.phrases]
    words["views"] = [{"name": view.name, "box": list(view.box)} for view in views]
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    path = Path(path)
    write_bytes(path, packed(whole, {"format": FORMAT, "capture": json.dumps(words)}))
    return path


def load(path: str | Path) -> Capture:
    """The capture that `save` wrote, on the CPU.

    Raises:
        FileNotFoundError: no such file.
        NoCapture: a file of something else, or a damaged one.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}; expected one that Capture.save wrote")
    try:
        with safe_open(path, "pt") as file:
            said = file.metadata() or {}
            if said.get("format") != FORMAT:
                raise NoCapture(f"{path} holds no capture (its format is {said.get('format')!r}, expected {FORMAT!r})")
            names = list(file.keys())
            return _made(json.loads(said["capture"]), {name: file.get_tensor(name) for name in names})
    except (SafetensorError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, NoCapture):
            raise
        raise NoCapture(f"{path} is damaged or no capture ({error!r:.200}); capture again and save it") from error


def _made(words: dict[str, Any], tensors: dict[str, Tensor]) -> Capture:
    views = [
        View(tensors[f"view{i}"].numpy(), tuple(about["box"]), about["name"])
        for i, about in enumerate(words.pop("views"))
    ]
    first = views[0]
    grid = PatchGrid(first.token_index, first.box, first.name, tuple(views[1:]), tensors["placeless"].numpy())
    phrases = tuple(Phrase(**{**about, "tokens": tuple(about["tokens"])}) for about in words.pop("phrases"))
    arrays = {name: tensors[name].numpy() for name in ARRAYS if name in tensors}
    kept: dict[str, Any] = {name: tensors[name] for name in TENSORS if name in tensors}
    lists = {name: tuple(words.pop(name)) for name in ("tokens", "layers")}
    return Capture(**words, **lists, phrases=phrases, grid=grid, **arrays, **kept)
