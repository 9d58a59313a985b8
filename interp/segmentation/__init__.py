"""Attend-and-segment: a phrase's map asks a segmenter for a mask (arXiv 2410.08209).

In: an `LMM` and an image, a capture, or phrase maps; a segmenter. Out: `interp.types.Segmentation`. Public:
`study.segment`, ``segment_capture``, ``segment_maps``; `method.Method` holds every option.
"""
