"""Attend-and-segment: a phrase's map asks a segmenter for a mask (arXiv 2410.08209).

In: an `LMM` and an image, a capture, or phrase maps; a segmenter. Out: `interp.types.Segmentation`. Public:
`study.segment`, ``segment_capture``, ``segment_maps``; `method.Method` holds every option.

The presets follow the released evaluation. Its example script differs from that: it counts the answer's tokens with the
BOS token that its tokenizer puts in front, so that every phrase's rows are shifted by one. Here, as in the evaluation,
the first token of the answer is number 0.
"""
