"""Two models on the same images and words.

In: two `LMM`s (or functions that load one), samples with masks. Out: a `result.Comparison`. Public: `study.compare`.
"""
