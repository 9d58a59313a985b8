"""A page to touch: a word, what every head looks at, one head's map over the image, and the same at other checkpoints.

`study.explore` records and packs, `panel` is one model and image as the page has them, `page` and `handle` show it.
"""
