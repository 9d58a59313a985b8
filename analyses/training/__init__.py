"""The small models' trainings: one recipe, and what each of them adds to it.

The recipe: ``parts`` (log, options, parts that run one after the other), ``loop`` (a loop that goes on where it
stopped), ``pictures`` (rendered scenes), ``tokenizer``, ``dialogues`` (prompts and answers), ``clip`` and ``contrast``
(the vision tower and its training), ``text`` (the language model), ``trainer`` and ``stages`` (LLaVA's), ``export``.
On top of it stand ``mini_llava``, ``mini_difflmm``, ``mini_sam`` and ``variants``, which the scripts ``train_*.py``
call.
"""
