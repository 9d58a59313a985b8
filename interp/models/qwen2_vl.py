"""Qwen2-VL: one grid of any shape, 2 x 2 patches to a token. Wang et al. 2024, arXiv 2409.12191."""

from interp.models._merged import grid as grid

architecture = "Qwen2VLForConditionalGeneration"
