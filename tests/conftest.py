"""Every test runs offline, with the shape annotations of `interp` checked at run time."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import pytest
import torch
from jaxtyping import install_import_hook
from tiny_models import parts

_hook = install_import_hook("interp", "beartype.beartype")

CHAT_TEMPLATE = parts.chat("<image>")


@pytest.fixture(scope="session")
def tiny_tokenizer():
    """Llama-like BPE tokenizer of about 200 tokens; long nouns take several."""
    return parts.tokenizer(image_token="<image>")


@pytest.fixture(scope="session")
def make_tiny_llava(tiny_tokenizer):
    """Builds (model, processor): a random LLaVA of 3 layers x 4 heads, 2 key-value heads, 4 x 4 patches of 8 pixels."""
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    def make(seed=0, **image_options):
        torch.manual_seed(seed)
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            image_size=32,
            patch_size=8,
            projection_dim=16,
        )
        text = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.15,  # far from uniform attention
            pad_token_id=tiny_tokenizer.pad_token_id,
            bos_token_id=tiny_tokenizer.bos_token_id,
            eos_token_id=tiny_tokenizer.eos_token_id,
        )
        image_token = tiny_tokenizer.convert_tokens_to_ids("<image>")
        config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=image_token)
        model = LlavaForConditionalGeneration(config).eval()
        model.generation_config.suppress_tokens = [image_token]  # a random model may say anything
        options = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}} | image_options
        processor = LlavaProcessor(
            image_processor=CLIPImageProcessorPil(**options),
            tokenizer=tiny_tokenizer,
            patch_size=8,
            vision_feature_select_strategy="default",
            num_additional_image_tokens=1,
            chat_template=CHAT_TEMPLATE,
        )
        return model, processor

    return make


@pytest.fixture(scope="module")
def whole(make_tiny_llava, tmp_path_factory):
    """Folder of a saved tiny LLaVA, for tests that leave it as it is or copy it."""
    folder = tmp_path_factory.mktemp("model")
    for part in make_tiny_llava():
        part.save_pretrained(folder)
    return folder


@pytest.fixture
def tiny_llava(make_tiny_llava):
    """(model, processor) of a random tiny LLaVA, fresh for each test."""
    return make_tiny_llava()


@pytest.fixture
def tiny_lmm(tiny_llava):
    """The same as an LMM."""
    import interp

    return interp.wrap(*tiny_llava)


@pytest.fixture
def photo():
    """An image of 40 x 52 pixels of noise."""
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
