"""Vicuna and CLIP, small and random, in their hub's layouts."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from own_code import MEAN, SIDE, SIZES, STD, VISION, WIDTH, add_tokenizer, train_tokenizer, with_weights, write
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM


@pytest.fixture(scope="session")
def parts(tmp_path_factory):
    """Vicuna and CLIP in their hub's layouts, and the modules that they are."""
    folder = tmp_path_factory.mktemp("original")
    found = SimpleNamespace(folder=folder, spm=train_tokenizer(folder))
    found.vocabulary = found.spm.vocab_size()
    found.text = LlamaConfig(vocab_size=found.vocabulary, **SIZES)
    torch.manual_seed(1)
    language, found.clip = LlamaForCausalLM(found.text), CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
    weights = language.state_dict()
    found.llama = lambda: with_weights(LlamaForCausalLM(found.text), weights)
    about = {**SIZES, "vocab_size": found.vocabulary, "model_type": "llama", "architectures": ["LlamaForCausalLM"]}
    old = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": torch.ones(4) for i in range(2)}
    write(folder / "vicuna", weights | old, about)
    add_tokenizer(found, folder / "vicuna")
    eyes = {f"vision_model.{name}": value for name, value in found.clip.state_dict().items()}
    eyes |= {"vision_model.embeddings.position_ids": torch.arange(17)[None], "logit_scale": torch.ones(())}
    eyes |= {"text_model.final_layer_norm.weight": torch.ones(8), "visual_projection.weight": torch.ones(8, WIDTH)}
    about = {"model_type": "clip", "vision_config": VISION, "text_config": {}, "projection_dim": 8}
    (folder / "clip").mkdir()
    (folder / "clip" / "config.json").write_text(json.dumps(about))
    torch.save(eyes, folder / "clip" / "pytorch_model.bin")
    steps = {"crop_size": SIDE, "size": SIDE, "do_center_crop": True, "do_normalize": True, "do_resize": True}
    steps |= {"image_mean": MEAN, "image_std": STD, "resample": 3, "feature_extractor_type": "CLIPFeatureExtractor"}
    (folder / "clip" / "preprocessor_config.json").write_text(json.dumps(steps))
    return found


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
