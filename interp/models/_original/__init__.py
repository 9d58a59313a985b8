"""LLaVA as its own code saves it (https://github.com/haotian-liu/LLaVA), read as transformers' LLaVA.

Three layouts: a whole checkpoint; a LoRA run (adapter and ``non_lora_trainables.bin``); a projector alone
(``mm_projector.bin``, stage 1). `layout` tells them from configurations alone, `parts` finds the files, `weights` gives
each weight under its name in ``LlavaForConditionalGeneration``, `building` makes configuration, processor and model,
`convert` writes a folder.
"""
