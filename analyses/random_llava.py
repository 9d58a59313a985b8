"""A LLaVA of any size with random weights: no attention is worth looking at, only its price."""

from __future__ import annotations

import argparse
import itertools
from typing import Any

import torch

import interp


def make_processor(patches: int, vocabulary: int) -> Any:
    """A LlavaProcessor whose words are four made-up syllables, one token each, so that any token can be spoken."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

    syllables = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    special = ["<unk>", "<s>", "</s>", "<pad>", "<image>"]
    made = ("".join(x) for x in itertools.product(syllables, repeat=3))
    words = ["▁" + x for x in itertools.islice(made, vocabulary - len(special))]
    model = models.WordLevel({x: i for i, x in enumerate(special + words)}, unk_token="<unk>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    names = dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), special, strict=False))
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names, extra_special_tokens={"image_token": "<image>"})
    side = 14 * patches
    return LlavaProcessor(
        image_processor=CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side}),
        tokenizer=fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )


def configuration(args: argparse.Namespace) -> Any:
    """The shape of llava-1.5-7b, with as many layers and patches as asked."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

    text = LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden,
        intermediate_size=args.hidden * 43 // 16,
        num_hidden_layers=args.layers,
        num_attention_heads=args.hidden // 128,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    vision = CLIPVisionConfig(
        hidden_size=args.hidden // 4,
        intermediate_size=args.hidden,
        num_hidden_layers=args.vision_layers,
        num_attention_heads=args.hidden // 256,
        image_size=14 * args.patches,
        patch_size=14,
    )
    return LlavaConfig(vision_config=vision, text_config=text, image_token_index=4)


def make_lmm(args: argparse.Namespace) -> interp.LMM:
    """A random LLaVA of that shape, which never ends its answer by itself."""
    from transformers import LlavaForConditionalGeneration

    torch.manual_seed(args.seed)
    processor, config = make_processor(args.patches, args.vocabulary), configuration(args)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, args.dtype))
    try:
        with torch.device(args.device):
            model = LlavaForConditionalGeneration(config).eval()
    finally:
        torch.set_default_dtype(before)
    model.generation_config.suppress_tokens = list(range(5))  # no end of the answer before its time
    return interp.wrap(model, processor)
