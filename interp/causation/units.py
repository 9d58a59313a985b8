"""What is taken away together: heads or sets of heads, and random sets of the same size and layers beside them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations, product
from math import comb, prod
from typing import Any

from interp.answer.maps import head_list
from interp.statistics.nulls import draw
from interp.types import Head

LISTED = 20
"""Up to so many times as many sets as are wanted are listed; of more, random ones are tried until enough differ."""

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


def units_of(heads: Any, layers: int | Sequence[int], per_layer: int, draws: int, seed: int) -> Units:
    """The units of ``heads``, each with ``draws`` random sets of as many heads in each of its layers.

    ``layers``: how many there are, or the numbers of those that have heads. ``heads``: "all" (each head by itself),
    "layers" (each layer's heads together), a list of heads (each by itself), or
    sets of heads by name. A random set is any but the unit itself, and may share heads with it: only then is the unit,
    where nothing sets it apart, as likely as each of them to be the most effective one. Where there are no more than
    ``draws`` other sets, or where they are measured anyway, all of them are taken; a unit that holds all heads of its
    layers has none.

    Raises:
        ValueError: no head, or one that the model does not have.

    >>> units = units_of({"best": [(0, 1), (1, 0)]}, layers=2, per_layer=2, draws=4, seed=0)
    >>> [str(head) for head in units.asked[0]], [str(head) for head in units.all[units.nulls[0][0]]]
    (['L0 H1', 'L1 H0'], ['L0 H0', 'L1 H0'])
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


def _named(heads: Any, layers: int | Sequence[int], per_layer: int) -> dict[str, Unit]:
    if isinstance(heads, Mapping):
        return {str(k): tuple(sorted(head_list(v, layers, per_layer))) for k, v in heads.items()} or _nothing(heads)
    if heads == "layers":
        numbers = range(layers) if isinstance(layers, int) else layers
        return {f"L{layer}": tuple(Head(layer, h) for h in range(per_layer)) for layer in numbers}
    return {str(h): (h,) for h in head_list(heads, layers, per_layer)}


def _nothing(heads: Any) -> Any:
    raise ValueError(f"no heads in {heads!r}; expected 'all', 'layers', a list of (layer, head), or named sets of them")


def _beside(own: Unit, per_layer: int, draws: int, seed: int, name: str, asked: set[Unit]) -> list[Unit]:
    """Other sets with as many heads in each layer as ``own``: all of them if ``draws`` allows, else so many."""
    mix = Counter(h.layer for h in own)
    total = prod(comb(per_layer, k) for k in mix.values()) - 1
    if len(own) == 1 or total <= LISTED * draws:
        each = [combinations([Head(layer, h) for h in range(per_layer)], k) for layer, k in mix.items()]
        every = [unit for parts in product(*each) if (unit := tuple(sorted(chain(*parts)))) != own]
        if total <= draws or asked.issuperset(every):
            return every
        return [every[i] for i in draw(seed, "units", name).permutation(total)[:draws]]
    found: dict[Unit, None] = {}
    random = draw(seed, "units", name)
    while len(found) < draws:  # there are many times as many
        picked = [Head(layer, int(h)) for layer, k in mix.items() for h in random.permutation(per_layer)[:k]]
        found[tuple(sorted(picked))] = None
        found.pop(own, None)
    return list(found)
