"""What heads and edges do to the words: they are taken away, and what becomes of the words is measured.

In: an `LMM`, samples with masks. Out: `result.Effects` of some heads, or a whole study, `result.Cause`. Public:
`harm.effects`, `study.cause`, `usual.reference`.
"""
