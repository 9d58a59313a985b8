"""Qwen3.5: Qwen3-VL's grid over a hybrid language model: most layers have a recurrent state and no attention heads."""

from interp.models._merged import grid as grid

architecture = "Qwen3_5ForConditionalGeneration"
