"""What is taken away together: heads or sets of heads, and random sets of the same size and layers beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from interp.answer.maps import head_list
from interp.statistics.nulls import draw
from interp.types import Head

Unit = tuple[Head, ...]
"""Heads that are taken away together, in order."""


@dataclass(frozen=True)
class Units:
    """``names`` of what was asked for; ``all`` sets of heads that are measured, the asked ones first; ``nulls[i]``: the
    places in ``all`` of the random sets beside the i-th asked one."""

    names: tuple[str, ...]
    all: tuple[Unit, ...]
    nulls: tuple[tuple[int, ...], ...]

    @property
    def asked(self) -> tuple[Unit, ...]:
        """The sets of heads that were asked for."""
        return self.all[: len(self.names)]


def units_of(heads: Any, layers: int, per_layer: int, draws: int, seed: int) -> Units:
    """The units of ``heads``, each with ``draws`` random sets of as many heads in each of its layers, none of its own.

    ``heads``: "all" (each head by itself), "layers" (each layer's heads together), a list of heads (each by itself), or
    sets of heads by name. A single head's random sets are the other heads of its layer, at most ``draws`` of them
    unless they are measured anyway. A unit that leaves too few other heads in a layer has none.

    Raises:
        ValueError: no head, or one that the model does not have.

    >>> units = units_of({"best": [(0, 1), (1, 0)]}, layers=2, per_layer=2, draws=4, seed=0)
    >>> [str(head) for head in units.asked[0]], [str(head) for head in units.all[units.nulls[0][0]]]
    (['L0 H1', 'L1 H0'], ['L0 H0', 'L1 H1'])
    """
    named = _named(heads, layers, per_layer)
    units: dict[Unit, int] = {}
    for own in named.values():
        units.setdefault(own, len(units))
    if len(units) < len(named):
        raise ValueError(f"two of the sets {list(named)} hold the same heads; leave one out")
    asked = list(units)
    nulls = []
    for name, own in named.items():
        chosen = _beside(own, per_layer, draws, seed, name, set(asked))
        nulls.append(tuple(units.setdefault(unit, len(units)) for unit in chosen))
    return Units(tuple(named), tuple(units), tuple(nulls))


def _named(heads: Any, layers: int, per_layer: int) -> dict[str, Unit]:
    if isinstance(heads, Mapping):
        return {str(k): tuple(sorted(head_list(v, layers, per_layer))) for k, v in heads.items()} or _nothing(heads)
    if heads == "layers":
        return {f"L{layer}": tuple(Head(layer, h) for h in range(per_layer)) for layer in range(layers)}
    return {str(h): (h,) for h in head_list(heads, layers, per_layer)}


def _nothing(heads: Any) -> Any:
    raise ValueError(f"no heads in {heads!r}; expected 'all', 'layers', a list of (layer, head), or named sets of them")


def _beside(own: Unit, per_layer: int, draws: int, seed: int, name: str, asked: set[Unit]) -> list[Unit]:
    """Random sets with as many heads in each layer as ``own``, none of which is in it."""
    mix = Counter(h.layer for h in own)
    free = {layer: [Head(layer, h) for h in range(per_layer) if Head(layer, h) not in own] for layer in mix}
    if any(len(free[layer]) < number for layer, number in mix.items()):
        return []
    if len(own) == 1:
        others: Sequence[Unit] = [(h,) for h in free[own[0].layer]]
        there = [unit for unit in others if unit in asked]
        if len(there) == len(others):
            return there
    found: dict[Unit, None] = {}
    for number in range(draws):
        random = draw(seed, "units", name, number)
        picked = [free[layer][i] for layer, k in mix.items() for i in random.permutation(len(free[layer]))[:k]]
        found[tuple(sorted(picked))] = None
    return list(found)
