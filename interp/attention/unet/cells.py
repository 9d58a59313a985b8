"""Where the patches of a grid over the image lie in a U-Net's maps, whatever their resolution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class PatchCells:
    """The spatial cells under some patches of a grid over the image, for whatever resolution a block has."""

    patches: tuple[tuple[int, int], ...]
    grid: tuple[int, int]

    def each(self, height: int, width: int) -> list[Int[Tensor, " cell"]]:
        """Per patch the flat cells (row * width + col) of a height x width map that it overlaps.

        Where the map is finer than the grid these are all cells inside the patch, where it is coarser the one that the
        patch lies in; where neither divides the other, all that share some area.
        """
        found = []
        for row, col in self.patches:
            rows, cols = _overlapped(row, self.grid[0], height), _overlapped(col, self.grid[1], width)
            found.append((rows[:, None] * width + cols).flatten())
        return found

    def __call__(self, height: int, width: int) -> Int[Tensor, " cell"]:
        """The cells of all patches, one patch after the other."""
        return torch.cat(self.each(height, width))


def _overlapped(patch: int, patches: int, cells: int) -> Int[Tensor, " cell"]:
    return torch.arange(patch * cells // patches, -(-(patch + 1) * cells // patches))


def patch_cells(patches: Sequence[tuple[int, int]], grid: tuple[int, int]) -> PatchCells:
    """Where patches (row, col) of a grid of (rows, cols) lie in a U-Net's maps: the ``queries`` of `interp.record`.

    The grid and the U-Net must cover the same square image, as DiffLMM's patches do (``capture.grid.shape``).

    Raises:
        ValueError: no patches, or one outside the grid.

    >>> cells = patch_cells([(0, 1)], grid=(2, 2))  # the upper right patch
    >>> cells(4, 4).tolist(), cells(1, 1).tolist()  # its cells in a finer and in a coarser map
    ([2, 3, 6, 7], [0])
    """
    rows, cols = (int(size) for size in grid)
    pairs = tuple((int(row), int(col)) for row, col in patches)
    wrong = [pair for pair in pairs if not (0 <= pair[0] < rows and 0 <= pair[1] < cols)]
    if wrong or not pairs:
        raise ValueError(f"got patches {wrong or 'none'}; expected (row, col) inside the grid of {rows} x {cols}")
    return PatchCells(pairs, (rows, cols))
