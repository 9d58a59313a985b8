"""What a recorder keeps: asked rows and columns of every layer, gathered over the forward passes of one sequence."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.attention.plan import Plan, cut, parts, planned
from interp.attention.positions import check_batch, joined, positions
from interp.attention.values import ValueNorms
from interp.attention.watching import Call, Hidden, Watcher
from interp.types import Weighting


class NotRecorded(RuntimeError):
    """Attention was asked for that no forward pass has computed.

    What to do: run the model inside the ``with``, over all positions that were asked for; the message names those that
    are missing.
    """


class Recorder(Watcher):
    """What ``record`` gives. ``layers`` are the layer numbers along the layer axis of ``attention``."""

    def __init__(
        self,
        modules: dict[int, nn.Module],
        queries: Any,
        keys: Any = None,
        mean: Any = None,
        weighting: Weighting = "attention",
    ) -> None:
        self.layers = tuple(modules)
        self.modules = tuple(modules.values())
        self.norms = ValueNorms(self.modules) if weighting == "value" else None
        self._axis = {module: axis for axis, module in enumerate(self.modules)}
        self._last = isinstance(queries, str) and queries == "last"
        if self._last and mean is not None:
            raise ValueError("a mean needs positions known beforehand; with queries='last' take it from `attention`")
        kept = positions([] if self._last else queries, "queries")
        averaged = positions([] if mean is None else mean, "mean")
        # Rows to keep, then rows that are only added up: slots from `_kept` on.
        self._kept, self._averaged = kept.shape[1], averaged.shape[1]
        self._queries = kept if mean is None else joined(kept, averaged)
        self._keys = None if keys is None else positions(keys, "keys")
        self._plans: dict[tuple[Any, ...], Plan] = {}
        self._passes = [0] * len(modules)
        self._done = torch.zeros(len(modules), *self._queries.shape, dtype=torch.bool)
        self._length = 0
        self._rows = self._sum = torch.empty(0)  # their sizes are known at the first row: see `_room`

    @property
    def attention(self) -> Float[Tensor, "batch layer head query key"]:
        """Attention 0..1, fp32, softmax over *all* keys, on the device of the first recorded layer; not a copy.

        With ``weighting="value"`` times the norm of each key's projected value (`interp.attention.values`).

        Keys that a row cannot see are 0. NaN where a position is absent (-1) and for a query that sees no key at all
        (a padding token); NaN in the weights stays NaN.

        Raises:
            NotRecorded: if no forward pass came by, or none contained one of the asked rows or columns.
        """
        self._check_complete(slice(0, self._kept))
        rows = self._rows
        if self._last:
            if len(set(self._passes)) > 1:
                raise NotRecorded(f"layers were called {self._passes} times; the last forward pass was cut short")
            rows = rows[:, :, :, : self._passes[0]]
        return rows if self._keys is not None else rows[..., : self._length]

    @property
    def mean(self) -> Float[Tensor, "batch layer head key"]:
        """Mean attention 0..1, fp32, of the rows that ``record(..., mean=...)`` named; NaN for a sample without any.

        Raises:
            NotRecorded: as for ``attention``.
        """
        if not self._averaged:
            raise NotRecorded("no mean was asked for; name its rows: `record(model, queries, keys, mean=rows)`")
        self._check_complete(slice(self._kept, None))
        count = (self._queries[:, self._kept :] >= 0).sum(1).to(self._sum.device)
        mean = self._sum / count[:, None, None, None]
        return mean if self._keys is not None else mean[..., : self._length]

    def _check_complete(self, slots: slice) -> None:
        if not self._begun:
            raise NotRecorded(
                "no attention came by: run a forward pass of the recorded model inside `with record(...)` that reaches "
                "one of the asked rows"
            )
        asked = self._queries[:, slots]
        missing = asked[(asked >= 0) & ~self._done.all(0)[:, slots]].unique().tolist()
        if missing:
            raise NotRecorded(
                f"rows {missing} were asked for, but no forward pass inside `with record(...)` held them in every "
                f"layer; the last position was {self._length - 1}. Positions count padding and the cache's keys"
            )
        if self._keys is not None and self._keys.numel() and int(self._keys.max()) >= self._length:
            raise NotRecorded(f"key {int(self._keys.max())} was asked for, but the last one was {self._length - 1}")

    @property
    def _begun(self) -> bool:
        return self._rows.ndim == 5

    def see(self, module: nn.Module, call: Call, hidden: Hidden, output: Tensor) -> None:
        """Records the asked rows of the call, without the edges that are knocked out."""
        query, key, start, first_key = call.query, call.key, call.start, call.first_key
        n_queries, n_keys = query.shape[2], key.shape[2]
        end = start + n_queries
        plan = self._plan((start, n_queries, first_key, n_keys), query.device)
        self._length = max(self._length, end)
        if plan.slots.numel() == 0 and self._begun:
            return
        with torch.inference_mode(False), torch.no_grad(), torch.autocast(query.device.type, enabled=False):
            check_batch(self._queries, query.shape[0], "queries")
            check_batch(self._keys, query.shape[0], "keys")
            key = key.float()
            norms = None if self.norms is None else self.norms(module, call.value, query.shape[1])[:, :, None]
            kept = self._kept if self._averaged else None
            for part in parts(plan, kept, query.shape[0] * query.shape[1] * n_keys):
                rows = call.rows(part.rows, key, hidden)
                rows = rows if norms is None else rows * norms
                self._store(self._axis[module], part, cut(rows, part, first_key, end))
        if self.norms is not None:
            self.norms.expect(module, output)

    def _plan(self, span: tuple[int, int, int, int], device: torch.device) -> Plan:
        """The plan for a pass of (first query, queries, first key, keys); made once for all layers of a device."""
        if (*span, device) not in self._plans:
            if len(self._plans) > 16:  # one a device is enough; a long generation makes one a step
                self._plans.clear()
            asked = torch.tensor([[span[0] + span[1] - 1]]) if self._last else self._queries
            self._plans[*span, device] = planned(asked, self._keys, span, device)
        return self._plans[*span, device]

    def _store(self, axis: int, plan: Plan, rows: Tensor) -> None:
        """Writes ``rows`` [batch head row column] to their places, or adds them up, and makes room if need be."""
        slots = torch.tensor([self._passes[axis]]) if self._last else plan.slots
        self._passes[axis] += 1
        room = self._room(rows, int(slots.max()) + 1 if slots.numel() else 0)
        rows = rows.to(room.device)
        if more := room.shape[-1] - rows.shape[-1]:
            rows = torch.cat([rows, (rows[..., :1] * 0).expand(-1, -1, -1, more)], -1)
        if self._averaged and slots.numel() and slots[0] >= self._kept:
            return self._add(axis, plan, rows)
        place, places = room[:, axis], slots.to(room.device)
        if not self._last:
            done = self._done[axis]
            again = done[:, slots] & plan.here
            if again.any():
                self._check_same(axis, again, rows, place[:, :, places])
            done[:, slots] |= plan.here
        if not plan.here.all():
            rows = torch.where(plan.here.to(room.device)[:, None, :, None], rows, place[:, :, places])
        place[:, :, places] = rows

    def _add(self, axis: int, plan: Plan, rows: Tensor) -> None:
        new = plan.here & ~self._done[axis][:, plan.slots]
        self._done[axis][:, plan.slots] |= plan.here
        if not new.all():
            rows = torch.where(new.to(rows.device)[:, None, :, None], rows, 0)
        self._sum[:, axis] += rows.sum(2)

    def _check_same(self, axis: int, again: Tensor, rows: Tensor, before: Tensor) -> None:
        """Allows a pass to be repeated (activation checkpoints do); two sequences in one recorder are an error."""
        again = again.to(rows.device)[:, None, :, None]
        rows, before = rows.where(again, 0), before.where(again, 0)
        unit = 1.0 if self.norms is None else float(before.nan_to_num(0, 0, 0).abs().max())
        if not torch.allclose(rows, before, atol=1e-3 * unit, equal_nan=True):
            raise ValueError(
                f"layer {self.layers[axis]} computed rows that it had already computed, and they differ: two sequences "
                "in one `record` (start another for the second), or a layer that runs several times in one pass"
            )

    def _room(self, rows: Tensor, slots: int) -> Tensor:
        """The result [batch layer head query key], made at the first row, grown by a quarter when it is full."""
        batch, heads, _, columns = rows.shape
        old = self._rows
        if not self._begun:
            asked = 64 if self._last else self._kept
            self._rows = rows.new_full((batch, len(self.modules), heads, asked, columns), torch.nan)
            self._sum = rows.new_zeros((batch, len(self.modules), heads, columns if self._averaged else 0))
            return self._rows
        if (batch, heads) != (old.shape[0], old.shape[2]):
            raise ValueError(
                f"a forward pass with {batch} samples and {heads} heads came after one with {old.shape[0]} samples and "
                f"{old.shape[2]} heads; start a new `record` for each batch, and record layers of unequal heads apart"
            )
        have = old.shape[3:]
        need = (have[0] if self._averaged else slots, columns)
        if need[0] > have[0] or need[1] > have[1]:
            more = [x if y <= x else max(y, x * 5 // 4) for x, y in zip(have, need, strict=True)]
            self._rows = old.new_full((*old.shape[:3], *more), torch.nan)
            self._rows[:, :, :, : have[0]] = old[..., :1] * 0
            self._rows[:, :, :, : have[0], : have[1]] = old
            if self._averaged:
                wider = (self._sum[..., :1] * 0).expand(-1, -1, -1, more[1] - have[1])
                self._sum = torch.cat([self._sum, wider], -1)
        return self._rows
