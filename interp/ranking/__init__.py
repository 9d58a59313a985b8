"""Which heads ground a model's words.

In: an `LMM`, samples with masks, names of metrics. Out: a `result.Ranking` of tables. Public: `study.rank`.
"""
