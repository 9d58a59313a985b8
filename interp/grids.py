"""Where the tokens of an image lie: in the sequence that the language model sees, and in the image."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int


@dataclass(frozen=True)
class View:
    """One look at an image, cut into patches: where they lie in the token sequence and in the image.

    ``token_index[row, col]`` is the patch's position in the sequence that the language model sees (without any
    left padding). ``box`` = (x0, y0, x1, y1) is the area that the whole grid covers, in pixels of the original
    image; every cell has the same size. It overhangs the image where the processor padded, and lies inside it where
    the processor cropped. Among the views of one image each has a ``name`` of its own.
    """

    token_index: Int[np.ndarray, "row col"]
    box: tuple[float, float, float, float]
    name: str = "main"

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.token_index.shape  # type: ignore[return-value]


@dataclass(frozen=True)
class PatchGrid(View):
    """All tokens of an image: the view that maps are made of, the ``others``, and those that have no place.

    ``others`` show the same image once more (the whole of it as a thumbnail, or crops of it). ``placeless`` are
    positions of tokens that belong to the image and show no part of it: the ends of rows, a class token.

    >>> grid = PatchGrid(np.arange(5, 9).reshape(2, 2), box=(0.0, 0.0, 336.0, 336.0))
    >>> grid.shape, int(grid.token_index[1, 0])  # the patch in row 1, column 0 is token 7 of the sequence
    ((2, 2), 7)
    """

    others: tuple[View, ...] = ()
    placeless: Int[np.ndarray, " token"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @property
    def views(self) -> tuple[View, ...]:
        """All views, the one that maps are made of first."""
        return (View(self.token_index, self.box, self.name), *self.others)

    @property
    def tokens(self) -> Int[np.ndarray, " token"]:
        """Positions of all tokens of the image: those of each of the ``views``, row by row, then the ``placeless``."""
        return np.concatenate([*(view.token_index.reshape(-1) for view in self.views), self.placeless])

    def seen_as(self, name: str) -> PatchGrid:
        """The same tokens, with maps made of the view of that name.

        Raises:
            ValueError: the image has no such view.
        """
        chosen = next((view for view in self.views if view.name == name), None)
        if chosen is None:
            there = ", ".join(view.name for view in self.views)
            raise ValueError(f"this image has no view {name!r}; it has: {there}. Choose one that every image has")
        rest = tuple(view for view in self.views if view.name != name)
        return PatchGrid(chosen.token_index, chosen.box, chosen.name, rest, self.placeless)
