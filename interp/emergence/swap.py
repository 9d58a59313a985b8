"""One model in memory that takes the weights of each checkpoint of a series in turn.

What a checkpoint changes is read from its files, tensor by tensor; all else stays. A weight with a low-rank adapter is
the base's weight plus the product, computed as PEFT merges it when a checkpoint is loaded afresh: on the CPU, the
product in full precision, the sum rounded once to the model's precision.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from peft import PeftConfig
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightRenaming, rename_source_key

from interp.emergence.points import ADAPTER_CONFIG, Header, Point, files_of, header_of
from interp.models._hf import BrokenCheckpoint, listed
from interp.models._overlay import ADAPTER, PROJECTOR, CheckpointMismatch, check_projector, home_of
from interp.models._shared import shared

PLAIN = {"use_dora": False, "lora_bias": False, "bias": "none", "fan_in_fan_out": False, "modules_to_save": None}
"""The settings of an adapter that is base + B A and nothing more."""


class Swap:
    """A context manager; iterating gives the sound checkpoints, each in place when it comes.

    ``skipped`` maps the step of each damaged checkpoint to what is wrong with it, known from its header or found when
    its turn came. On leaving, also by an exception, the model has the weights that it came with, bit for bit.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point], base: Callable[[], Path]):
        self.model, self.points, self.base = model, points, base
        self.skipped = {point.step: point.damaged for point in points if point.damaged}
        self._weights: dict[str, Tensor] = {}
        self._base = Files({}, Path())
        self._pristine: dict[str, Tensor] = {}
        self._came: dict[str, Tensor] = {}
        self._changed: set[str] = set()

    @torch.no_grad()
    def __enter__(self) -> Swap:
        """The model with the base's weights: where it had others, those are kept aside until the end.

        Raises:
            ValueError: some weights are not in memory, or not in plain numbers.
            CheckpointMismatch: the base does not fit the model.
        """
        self._weights = dict(self.model.state_dict(keep_vars=False))
        if away := [k for k, v in self._weights.items() if v.is_meta]:
            raise ValueError(f"{len(away)} weights are offloaded ({listed(away, 3)}); load the model onto one device")
        self._base = whole(self.model, self.base())
        try:
            for name in self._base.names:
                own, base = self._weights[name], self._read_base(name)
                if not torch.equal(own.cpu(), base):
                    self._came[name] = own.detach().cpu().clone()
                    own.copy_(base)
        except BaseException:
            self.__exit__()
            raise
        return self

    @torch.no_grad()
    def __exit__(
        self,
        kind: type[BaseException] | None = None,
        error: BaseException | None = None,
        trace: TracebackType | None = None,
    ) -> None:
        self.to_base()
        for name, tensor in self._came.items():
            self._weights[name].copy_(tensor)
        self._came, self._pristine, self._changed = {}, {}, set()

    def __iter__(self) -> Iterator[Point]:
        for point in self.points:
            if point.damaged:
                continue
            try:
                self.to(point)
            except (ValueError, OSError) as error:
                self.skipped[point.step] = f"{type(error).__name__}: {error}"
                continue
            yield point

    @torch.no_grad()
    def to(self, point: Point) -> None:
        """Gives the model this checkpoint's weights.

        Raises:
            CheckpointMismatch, interp.models._hf.BrokenCheckpoint, OSError: weights that do not fit, are no numbers or
                cannot be read. The model then has the base's.
        """
        if point.damaged:
            raise BrokenCheckpoint(point.damaged)
        try:
            new = self._plan(point)
            for name in self._changed - new.keys():
                self._weights[name].copy_(self._read_base(name))
            for name, read in new.items():
                self._changed.add(name)
                tensor = read()
                if not torch.isfinite(tensor).all():
                    raise BrokenCheckpoint(f"step {point.step} has NaN or infinity in {name}; fetch or train it again")
                self._weights[name].copy_(tensor)
            self._changed = set(new)
        except BaseException:
            self.to_base()
            raise

    @torch.no_grad()
    def to_base(self) -> None:
        """Gives the model the base's weights."""
        for name in self._changed:
            self._weights[name].copy_(self._read_base(name))
        self._changed = set()

    @property
    def kept_bytes(self) -> int:
        """Size of the base's weights that are kept on the CPU beside the model's own."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._pristine.values())

    def _plan(self, point: Point) -> dict[str, Callable[[], Tensor]]:
        """What to read for each weight that the checkpoint changes; raises before anything is changed."""
        folder = point.folder()
        if point.kind == "full":
            files = whole(self.model, folder)
            return {name: lambda name=name: files.read(name, self._weights[name].dtype) for name in files.names}
        plan: dict[str, Callable[[], Tensor]] = {}
        if point.kind == "adapter":
            for name, delta in deltas(self.model, folder).items():
                plan[name] = lambda name=name, delta=delta: self._kept(name).clone().add_(delta())
        if (folder / PROJECTOR).is_file():
            projector = load_file(folder / PROJECTOR)
            check_projector(self.model, projector, folder / PROJECTOR)
            for name, tensor in projector.items():
                self._kept(name)
                plan[name] = lambda name=name, tensor=tensor: tensor.to(self._weights[name].dtype)
        return plan

    def _kept(self, name: str) -> Tensor:
        """The base's weight, kept on the CPU from now on."""
        if name not in self._pristine:
            self._pristine[name] = self._read_base(name)
        return self._pristine[name]

    def _read_base(self, name: str) -> Tensor:
        if name in self._pristine:
            return self._pristine[name]
        return self._base.read(name, self._weights[name].dtype)


class Files:
    """Weights in the safetensors of a folder, by the model's names."""

    def __init__(self, names: Mapping[str, tuple[str, Header]], folder: Path):
        self.names, self.folder = names, folder

    def read(self, name: str, dtype: torch.dtype) -> Tensor:
        """One weight, on the CPU, in the precision asked for."""
        if name not in self.names:
            raise CheckpointMismatch(f"{self.folder} does not hold {name}, which a checkpoint of the series changes")
        key, header = self.names[name]
        with safe_open(self.folder / header.file, "pt") as file:
            return file.get_tensor(key).to(dtype)


def whole(model: nn.Module, folder: Path) -> Files:
    """All weights of the model in a folder, under the names that transformers gives them when it loads.

    Raises:
        CheckpointMismatch: weights are missing, have another shape, or are stored in another form than the model's.
    """
    kind, files = files_of(str(folder), None)
    if kind != "full":
        raise CheckpointMismatch(f"{folder} holds a {kind} and no whole model; expected model.safetensors")
    headers = {k: h for file in files for k, h in header_of(str(folder), None, file).items()}
    rules = get_model_conversion_mapping(model)  # type: ignore[arg-type]
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    converters: list[Any] = [rule for rule in rules if not isinstance(rule, WeightRenaming)]
    own = model.state_dict()
    elsewhere = shared(folder)
    apart = {file: header_of(str(folder), None, str(file)) for file in {file for file, _ in elsewhere.values()}}
    names = {name: (key, apart[file][key]) for name, (file, key) in elsewhere.items()}
    for key, header in headers.items():
        name, converted = rename_source_key(key, renamings, converters, getattr(model, "base_model_prefix", None), own)
        if name in own and converted:
            raise CheckpointMismatch(
                f"{folder} stores {name} in parts ({key}); save it with this version of transformers"
            )
        if name in own:
            names[name] = (key, header)
    tied = {own[name].data_ptr() for name in names}
    if missing := [k for k, v in own.items() if k not in names and v.data_ptr() not in tied]:
        raise CheckpointMismatch(f"{folder} lacks {len(missing)} weights of the model: {listed(missing)}")
    if other := [f"{k} {h.shape}" for k, (_, h) in names.items() if h.shape != tuple(own[k].shape)]:
        raise CheckpointMismatch(f"{folder} has other shapes than the model: {listed(other)}")
    return Files(names, folder)


def deltas(model: nn.Module, folder: Path) -> dict[str, Callable[[], Tensor]]:
    """What the adapter adds to each weight: a function per name that computes it in full precision on the CPU.

    alpha / r B A, or alpha / sqrt(r) B A if rank-stabilised (Hu et al. 2021, arXiv 2106.09685).

    Raises:
        CheckpointMismatch: an adapter of another kind, or one that does not fit the model.
    """
    path = folder / ADAPTER
    config: Any = PeftConfig.from_pretrained(str(folder))
    odd = [f"{k}={getattr(config, k)!r}" for k, plain in PLAIN.items() if getattr(config, k, plain) not in (plain, [])]
    keys = set(header_of(str(folder), None, ADAPTER))
    layers = {key.rsplit(".lora_", 1)[0].removeprefix("base_model.model.") for key in keys if ".lora_" in key}
    if config.peft_type != "LORA" or odd:
        raise CheckpointMismatch(
            f"{folder / ADAPTER_CONFIG} is {config.peft_type} {' '.join(odd)}; a series takes plain LoRA. "
            "Merge this adapter and save the whole model"
        )
    prefix, home = home_of(model, layers, path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        named = {
            n for n, m in home.named_modules() if isinstance(m, nn.Linear) and check_target_module_exists(config, n)
        }
    expected = {f"base_model.model.{n}.lora_{part}.weight" for n in named | layers for part in "AB"}
    if keys != expected:
        missing, unknown = sorted(expected - keys), sorted(keys - expected)
        raise CheckpointMismatch(
            f"{path} does not fit the model: missing keys: {listed(missing)}; unexpected keys: {listed(unknown)}"
        )
    return {f"{prefix}{n}.weight": _delta(path, f"base_model.model.{n}", config, n, home) for n in sorted(layers)}


def _delta(path: Path, key: str, config: Any, layer: str, home: nn.Module) -> Callable[[], Tensor]:
    def compute() -> Tensor:
        with safe_open(path, "pt") as file:
            a, b = (file.get_tensor(f"{key}.lora_{part}.weight").float() for part in "AB")
        rank, alpha = (
            pattern.get(get_pattern_key(pattern.keys(), layer), usual)
            for pattern, usual in ((config.rank_pattern, config.r), (config.alpha_pattern, config.lora_alpha))
        )
        shape = tuple(home.get_submodule(layer).weight.shape)  # type: ignore[union-attr]
        if (b.shape[0], a.shape[1]) != shape or a.shape[0] != rank or b.shape[1] != rank:
            raise CheckpointMismatch(
                f"{path} has {tuple(b.shape)} x {tuple(a.shape)} for {layer}; expected rank {rank} and product {shape}"
            )
        return (b @ a) * (alpha / math.sqrt(rank) if config.use_rslora else alpha / rank)

    return compute
