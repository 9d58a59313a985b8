"""A multimodal model with its processor and its family, ready to generate and to be captured."""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from interp.models import _family as family_of
from interp.models import _overlay as overlay
from interp.models._config import CONFIG, HUB_ID, read_config
from interp.models._described import check_model
from interp.models._hf import HUB_OPTIONS, BrokenCheckpoint, completed
from interp.models._lmm import LMM
from interp.models._original import layout
from interp.models._processor import with_options
from interp.plugins import data_folder, shipped


class UnknownModel(LookupError):
    """A model's name that is no folder, no shipped model and not to be had from the hub.

    What to do: check the spelling; give the folder that holds ``config.json``; or download the model while online.
    """


def wrap(
    model: Any,
    processor: Any,
    family: Any = None,
    *,
    processor_options: Mapping[str, Any] | None = None,
    view: str | None = None,
) -> LMM:
    """An LMM of a model and a processor that are loaded already. Neither is changed; what an old processor
    leaves to the model is set in a copy of it. ``family`` is a family's name or a module of that kind; None takes that
    of the model's ``model_type``. The rest as for `load`.

    Raises:
        interp.plugins.UnknownName: no family module of that name.
        RefusedFamily: a model whose image tokens have no place.
        interp.models._original.layout.OriginalLayout: a model of LLaVA's own code.
    """
    if hasattr(model, "get_base_model"):  # a PEFT model: its layers are inside the base model, unmerged
        model = model.get_base_model()
    if layout.is_original(own := {name: value for name, value in vars(model.config).items() if name[:1] != "_"}):
        layout.told_to_convert(model.config._name_or_path or type(model).__name__, own)
    options = dict(processor_options or {})
    processor = with_options(completed(processor, model.config), options)
    chosen = family_of.named(model.config.model_type if family is None else family)
    return LMM(model, processor, chosen, model.config._name_or_path or type(model).__name__, options, view)


def load(
    name: str | os.PathLike[str],
    device: str | torch.device | None = None,
    dtype: str | torch.dtype | None = None,
    *,
    processor_options: Mapping[str, Any] | None = None,
    view: str | None = None,
    **from_pretrained: Any,
) -> LMM:
    """An LMM from a shipped model's name, a folder or a hub id.

    ``"mini-llava"`` is that shipped model after its last checkpoint, ``"mini-llava/checkpoint-40"`` after that one;
    folders of the same layout work alike. Released DiffLMM weights (an adapter and ``non_lora_trainables.bin``) are
    converted once, into a cache, with the parts given as ``language_model``, ``diffusion`` and ``clip``, or those that
    they were trained on.

    ``device`` is the GPU where there is one; ``dtype`` is the checkpoint's on a GPU and float32 on the CPU. All else
    goes to transformers' ``from_pretrained`` (``device_map``, ``quantization_config``, ``attn_implementation``,
    ``revision``, ``trust_remote_code``, ...).

    ``processor_options`` are the image processor's own, by name (``do_pan_and_scan``, ``max_pixels``, ...). ``view``:
    maps are of that view of the image (``base``, ``thumbnail``, ``crop 1``, ...) in place of the main one.

    Raises:
        UnknownModel: neither a folder, a shipped model nor to be had from the hub.
        interp.plugins.UnknownName: no family module for the model's ``model_type``.
        RefusedFamily: a model whose image tokens have no place.
        interp.models._original.layout.OriginalLayout: a LLaVA in its own code's layout, which must be converted.
        BrokenCheckpoint, interp.models._overlay.CheckpointMismatch: weights that are missing, do not fit or are no
            numbers.

    >>> lmm = load("mini-llava")
    >>> lmm.layers, lmm.heads
    (6, 8)
    >>> load("mini-llama/base")
    Traceback (most recent call last):
        ...
    interp.models._load.UnknownModel: 'mini-llama/base' is no folder with a config.json, no shipped model (...)...
    """
    source, checkpoint = _find(str(name))
    hub = {k: v for k, v in from_pretrained.items() if k in HUB_OPTIONS}
    layout.check_converted(source, **hub)
    if _released(source, hub):
        converter = importlib.import_module("interp.models.difflmm.convert")
        parts = {k: from_pretrained.pop(k) for k in converter.PARTS if k in from_pretrained}
        source = str(converter.converted(source, **parts, **hub))
        hub, from_pretrained = {}, {k: v for k, v in from_pretrained.items() if k not in hub}
    family = family_of.named(_model_type(str(name), source, hub))
    placed = "device_map" in from_pretrained or "quantization_config" in from_pretrained
    device = device_of(device)
    dtype = dtype or ("auto" if placed or device.type != "cpu" else torch.float32)
    check_model(Path(source))
    with _explained(str(name)):
        model, processor = family_of.load(family, source, dtype=dtype, **from_pretrained)
    if checkpoint:
        overlay.overlay(model, checkpoint)
    if not placed:
        model.to(device)
    check_finite(model, str(name))
    options = dict(processor_options or {})
    return LMM(model, with_options(processor, options), family, str(name), options, view)


def device_of(device: str | torch.device | None) -> torch.device:
    """The device of that name; None is the GPU where there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except Exception as error:  # torch raises RuntimeError, AssertionError, NotImplementedError, ...
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(
            f"there is no device {str(device)!r} here ({why}); expected cpu, cuda, cuda:1, ... as far as this machine "
            "has them, or none for the GPU where there is one"
        ) from error
    if found.type == "meta":
        raise ValueError("the device 'meta' holds no numbers; expected cpu, cuda, cuda:1, ...")
    return found


def check_place(name: str) -> None:
    """Nothing, if a model of a known family lies there, told from its configuration and the heads of its weights.

    Raises:
        UnknownModel, interp.plugins.UnknownName: as for `load`.
    """
    source, _ = _find(name)
    layout.check_converted(source)
    if not _released(source, {}):
        family_of.named(_model_type(name, source, {}))
        check_model(Path(source))


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What readers raise on files that are cut off, of other shapes or nonsense, said as a BrokenCheckpoint."""
    try:
        yield
    except (ValueError, OSError, ImportError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # SafetensorError, RuntimeError, KeyError, RecursionError, ...: any
        why = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())[:600]
        raise BrokenCheckpoint(
            f"{name} cannot be loaded ({type(error).__name__}: {why}): a file is cut off, damaged or of another model; "
            "fetch or save it again"
        ) from error


@torch.no_grad()
def check_finite(model: nn.Module, name: str) -> None:
    """Looks at every weight once, on its device.

    Raises:
        BrokenCheckpoint: with the names of the weights that hold NaN or infinity.
    """
    weights = {k: v for k, v in model.state_dict().items() if v.is_floating_point() and not v.is_meta}
    flags = {k: torch.isfinite(v).all() for k, v in weights.items()}
    if broken := [k for k, fine in flags.items() if not fine]:
        raise BrokenCheckpoint(f"{name} has NaN or infinity in {', '.join(broken)}; download or train it again")


def _find(name: str) -> tuple[str, overlay.Checkpoint | None]:
    """What to give from_pretrained, and the checkpoint to lay over it."""
    for path in (Path(name), data_folder() / name):
        if (path / overlay.BASE / "config.json").is_file():
            series = overlay.paths(path)
            return _over(path / overlay.BASE, series[-1]) if series else (str(path / overlay.BASE), None)
        if (path.parent / overlay.BASE / "config.json").is_file():
            if path.name == overlay.BASE:
                return str(path), None
            series = overlay.paths(path.parent)
            if chosen := next((c for c in series if c.name == path.name), None):
                return _over(path.parent / overlay.BASE, chosen)
            if (path / "config.json").is_file():  # a model that happens to lie beside a folder of that name
                return str(path), None
            there = ", ".join(c.name for c in series)
            raise UnknownModel(f"{path.parent} has no checkpoint {path.name!r}; there are: {there or 'none'}")
    return (str(data_folder() / name) if (data_folder() / name / "config.json").is_file() else name), None


def _over(base: Path, path: Path) -> tuple[str, overlay.Checkpoint | None]:
    """The checkpoint over its base; a whole model stands by itself."""
    chosen = overlay.checkpoint(path)
    overlay.check(chosen)
    return (str(path), None) if chosen.kind == "full" else (str(base), chosen)


def _released(source: str, hub: dict[str, Any]) -> bool:
    """Whether the folder or hub id holds DiffLMM as released: a language model's adapter beside a projector."""
    quiet = dict.fromkeys(("gated_repo", "missing_entries", "connection_errors"), False)
    asked = {k: v for k, v in hub.items() if k != "trust_remote_code"}
    asked |= {f"_raise_exceptions_for_{kind}": on for kind, on in quiet.items()}
    try:
        return all(cached_file(source, file, **asked) for file in ("adapter_config.json", "non_lora_trainables.bin"))
    except OSError:
        return False


def _model_type(name: str, source: str, hub: dict[str, Any]) -> str:
    """From the checkpoint's configuration, which transformers need not know: the family registers it."""
    if (folder := Path(source)).is_dir():
        if not (folder / CONFIG).exists():
            there = ", ".join(sorted(p.name for p in folder.iterdir())[:5]) or "nothing"
            raise UnknownModel(
                f"the folder {source} holds no model: it has no {CONFIG} (it holds {there}); expected a model as "
                "transformers saves it"
            )
        return str(read_config(folder)["model_type"])
    try:
        return str(PreTrainedConfig.get_config_dict(source, **hub)[0]["model_type"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnknownModel(_nowhere(name, error)) from error


def _nowhere(name: str, error: Exception) -> str:
    there = ", ".join(shipped()) or "none here: INTERP_DATA"
    here = f"{name!r} is no folder with a {CONFIG}, no shipped model ({there})"
    if Path(name).is_file():
        return f"{name!r} is a file; expected a folder with a {CONFIG}, a shipped model's name, or a hub id"
    if not HUB_ID.fullmatch(name):
        return f"{here}, and no hub id (NAMESPACE/NAME)"
    return f"{here}, and the hub gave none under that name: {(str(error).splitlines() or [type(error).__name__])[0]}"
