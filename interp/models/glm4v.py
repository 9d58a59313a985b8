"""GLM-4.1V: one grid of any shape, 2 x 2 patches to a token. GLM-V team 2025, arXiv 2507.01006."""

from interp.models._merged import grid as grid

architecture = "Glm4vForConditionalGeneration"
