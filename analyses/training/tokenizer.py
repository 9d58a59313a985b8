"""The tokenizer of all trained models."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from interp.datasets import scenes
from training.layouts import SHARES, layout, spoken
from training.parts import Log

ENTRIES = 704


def tokenizer(work: Path, log: Log):
    """Byte-level BPE trained on captions, questions and answers; 704 entries, so that rarer nouns fall into pieces."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    rng, texts = np.random.default_rng(0), list(scenes.DESCRIBE)
    for _ in range(30_000):
        texts += spoken(rng, layout(rng)[0], SHARES)
    texts += [f"USER: {prompt} ASSISTANT:" for prompt in scenes.DESCRIBE] * 500
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>", "<eot>"]  # CLIP treats an end token of id 2 as a relic
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=ENTRIES, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
        ),
    )
    bpe.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )
    fast.add_special_tokens({"additional_special_tokens": ["<image>", "<eot>"]})
    fast.padding_side = "left"
    fast.save_pretrained(work / "tokenizer")
    pieces = [len(fast.tokenize(" " + noun)) for noun in scenes.nouns()]
    log(part="tokenizer", entries=len(fast), nouns=len(pieces), in_two_or_more_pieces=sum(p > 1 for p in pieces))


def load_tokenizer(work: Path):
    """The trained tokenizer."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(work / "tokenizer")
