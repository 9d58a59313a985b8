"""When heads begin to ground, over a series of checkpoints.

In: a `timeline.Series`, samples with masks. Out: `result.Emerged`. Public: `timeline.series`, `study.emerge`.
"""
