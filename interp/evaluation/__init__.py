"""Grounding scored as the benchmarks score it: GCG, instance segmentation, referring expressions, panoptic narratives.

Every measure works on plain `interp.evaluation.result.Record`: what was said and marked in an image, and what is
there. `interp evaluate` makes the records from a model and a data set.
"""
