"""An answer, read: its tokens' attention, the words in it, and their maps.

In: an `LMM`, images, prompts, answers. Out: `interp.types.Capture`, phrases, phrase maps, maps in pixels. Public:
`capturing.capture` and ``captures``, `phrases.find_phrases`, `targets.match_targets`, `maps.phrase_maps`,
`recall.named_targets`, `lens.to_lens`.
"""
