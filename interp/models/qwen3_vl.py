"""Qwen3-VL: one grid of any shape, 2 x 2 patches to a token; early layers get more of the image. arXiv 2511.21631."""

from interp.models._merged import grid as grid

architecture = "Qwen3VLForConditionalGeneration"
