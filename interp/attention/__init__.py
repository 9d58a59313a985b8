"""Seeing and changing attention inside any model; knows no image and no word.

In: a torch module and positions. Out: attention rows, or a model that computes without some heads or edges, inside a
``with``. Public: `record.record`, `ablation.ablate`, `edges.knockout`, `outputs.head_outputs`.
"""
