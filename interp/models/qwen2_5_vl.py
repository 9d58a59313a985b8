"""Qwen2.5-VL: one grid of any shape, 2 x 2 patches to a token. Bai et al. 2025, arXiv 2502.13923."""

from interp.models._merged import grid as grid

architecture = "Qwen2_5_VLForConditionalGeneration"
