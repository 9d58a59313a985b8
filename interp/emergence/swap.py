"""One model in memory that takes the weights of each checkpoint of a series in turn.

What a checkpoint changes is read from its files, tensor by tensor; all else stays. A weight with a low-rank adapter is
the base's weight plus the product, computed as PEFT merges it when a checkpoint is loaded afresh: on the CPU, the
product in full precision, the sum rounded once to the model's precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor, nn

from interp.emergence.points import Point
from interp.emergence.weights import Files, whole
from interp.models._adapter import deltas
from interp.models._hf import BrokenCheckpoint, listed
from interp.models._original.weights import Weights
from interp.models._overlay import read_projector
from interp.work.halves import only_its_own


class Swap:
    """A context manager; iterating gives the sound checkpoints, each in place when it comes.

    ``skipped`` maps the step of each damaged checkpoint to what is wrong with it, known from its header or found when
    its turn came. On leaving, also by an exception, the model has the weights that it came with, bit for bit.
    """

    def __init__(self, model: nn.Module, points: Sequence[Point], base: Callable[[nn.Module], Files | Weights]):
        self.model, self.points, self.base = model, points, base
        self.skipped = {point.step: point.damaged for point in points if point.damaged}
        self._weights: dict[str, Tensor] = {}
        self._base: Files | Weights = Files({}, Path())
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
        self._base = self.base(self.model)
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
            except Exception as error:
                if not only_its_own(error):
                    raise
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
        for name, tensor in read_projector(self.model, folder).items():
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
