"""A DiffLMM that shares weights with a LLaVA loads, follows its training and is cached like any other model."""

import copy
import json
import shutil

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import interp
from interp.emergence.frozen import vision_cache
from interp.models import _shared
from interp.models._hf import BrokenCheckpoint
from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor
from interp.types import Sample

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

PROMPT = "What is on the left?"
VAE = {
    "block_out_channels": [4, 4, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.3,
}
UNET = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
"""Images of 32 pixels, latents of 8 x 8, and 4 x 4 cells behind up block 1: the tiny LLaVA's grid."""


@pytest.fixture(scope="module")
def built(make_tiny_llava, tiny_tokenizer, tmp_path_factory):
    """(data folder, the DiffLMM in memory): data/tiny-llava and data/tiny-difflmm as the trainings export them."""
    data = tmp_path_factory.mktemp("data")
    llava, _ = make_tiny_llava()
    llava.to(torch.bfloat16).save_pretrained(data / "tiny-llava" / "base")
    config = DiffLMMConfig(
        vision_config=llava.config.vision_config, text_config=llava.config.text_config, image_size=32,
        vae_config=VAE, unet_config=UNET, image_token_index=llava.config.image_token_id,
    )  # fmt: skip
    torch.manual_seed(3)
    model = DiffLMMForConditionalGeneration(config).eval()
    theirs = {k: v for k, v in llava.state_dict().items() if "multi_modal_projector" not in k}
    assert not model.load_state_dict(theirs, strict=False).unexpected_keys
    model.to(torch.bfloat16)
    model.generation_config.suppress_tokens = [config.image_token_id]
    out = data / "tiny-difflmm"
    for step in (0, 7, 30):
        checkpoint(model, out / f"checkpoint-{step}", step)
    model.config.save_pretrained(out / "base")
    model.generation_config.save_pretrained(out / "base")
    first = out / "checkpoint-0" / "projector.safetensors"
    _shared.save(model.state_dict(), out / "base", (data / "tiny-llava" / "base" / "model.safetensors", first))
    DiffLMMProcessor.from_config(config, tiny_tokenizer).save_pretrained(out / "base")
    return data, model


def checkpoint(model, folder, step):
    """A projector; after step 7 an adapter too."""
    trained = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(step)
    for part in trained.model.multi_modal_projector.parameters():
        part.data += 0.1 * bool(step) * torch.randn(part.shape, generator=generator).to(part)
    folder.mkdir(parents=True)
    save_file(
        {k: v for k, v in trained.state_dict().items() if "multi_modal_projector" in k},
        folder / "projector.safetensors",
    )
    if step > 7:
        torch.manual_seed(step)
        options = {"r": 2, "target_modules": r".*language_model.*_proj", "init_lora_weights": False}
        peft.get_peft_model(trained.float(), peft.LoraConfig(**options)).save_pretrained(folder)


@pytest.fixture
def shipped(built, tmp_path, monkeypatch):
    """A copy of that data folder that a test may harm, where shipped models are looked for."""
    shutil.copytree(built[0], tmp_path / "data")
    monkeypatch.setenv("INTERP_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) and v.dtype == b[k].dtype for k, v in a.items())


def samples(n=3):
    rng = np.random.default_rng(0)
    return [
        Sample(f"s{i}", rng.integers(0, 256, (40, 44, 3), dtype=np.uint8), "What is it?", "A brown dog sits.")
        for i in range(n)
    ]


def attention(lmm):
    return torch.stack([c.attention for c in interp.captures(lmm, samples(), batch=2)])


def test_what_two_models_share_is_stored_once_and_loads_bit_for_bit(shipped, built):
    own = load_file(shipped / "tiny-difflmm" / "base" / "model.safetensors")
    assert own and all(name.startswith("model.diffusion.") for name in own)
    lmm = interp.load("tiny-difflmm/base", dtype="auto")
    assert same(lmm.model.state_dict(), built[1].state_dict())
    assert lmm.model.generation_config.suppress_tokens == built[1].generation_config.suppress_tokens
    assert not any(p.requires_grad for p in lmm.model.model.diffusion.parameters())
    auto = AutoModelForImageTextToText.from_pretrained(shipped / "tiny-difflmm" / "base", dtype=torch.bfloat16)
    assert same(auto.state_dict(), built[1].state_dict())
    assert interp.load("tiny-difflmm").generate(samples()[0].image, PROMPT, max_new_tokens=3) is not None


def test_a_series_over_a_shared_base_equals_fresh_loads_and_leaves_the_model_as_it_came(shipped):
    found = interp.series("tiny-difflmm")
    lmm = found.load(dtype=torch.float32)
    before, seen = {k: v.clone() for k, v in lmm.model.state_dict().items()}, []
    with found.swap(lmm) as swap:
        for point in swap:
            assert same(lmm.model.state_dict(), interp.load(point.place, dtype=torch.float32).model.state_dict())
            seen.append(point.step)
        assert not swap.skipped
    assert seen == [0, 7, 30] and same(lmm.model.state_dict(), before)


def test_a_missing_or_other_file_is_named_before_a_wrong_model_is_built(shipped):
    theirs = shipped / "tiny-llava" / "base" / "model.safetensors"
    weights = load_file(theirs)
    weights[next(k for k in weights if k.endswith("q_proj.weight"))] += 1
    save_file(weights, theirs, {"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"tiny-llava/base/model.safetensors is not the file.*SHA-256"):
        interp.load("tiny-difflmm")
    theirs.unlink()
    with pytest.raises(BrokenCheckpoint, match=r"takes \d+ weights from .*tiny-llava.*is not there; fetch or train"):
        interp.load("tiny-difflmm")


def test_a_weight_that_is_in_no_file_is_never_made_up(shipped):
    index = shipped / "tiny-difflmm" / "base" / "shared.json"
    given = json.loads(index.read_text())
    names = next(iter(given.values()))["names"]
    lost = next(k for k in names if k.endswith("q_proj.weight"))
    names[lost] = "gone"
    index.write_text(json.dumps(given))
    with pytest.raises(BrokenCheckpoint, match="names weights that are not there: gone in"):
        interp.load("tiny-difflmm")
    del names[lost]
    index.write_text(json.dumps(given))
    with pytest.raises(BrokenCheckpoint, match=r"lacks 1 of the weights.*q_proj.weight"):
        interp.load("tiny-difflmm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_over_a_series_clip_and_latents_are_computed_once_and_the_unet_each_time(shipped, dtype):
    found = interp.series("tiny-difflmm")
    lmm, ran = found.load(dtype=dtype), []
    with found.swap(lmm) as swap:
        plain = [attention(lmm) for _ in swap]
    assert not torch.equal(plain[0], plain[1])
    inner = lmm.model.model
    for name, part in (
        ("clip", inner.vision_tower),
        ("vae", inner.diffusion.vae.encoder),
        ("unet", inner.diffusion.unet),
    ):
        part.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
    with found.swap(lmm) as swap, vision_cache(lmm.model) as cache:
        for _, expected in zip(swap, plain, strict=True):
            assert cache.refresh()  # by hash: no checkpoint changes what is frozen
            assert torch.equal(attention(lmm), expected)
        assert (cache.misses, cache.hits) == (4, 8)  # two batches of CLIP tokens and of latents
        assert ran.count("vae") == 2 and ran.count("unet") == 6
    assert "latents" not in vars(inner.diffusion) and "forward" not in vars(inner.vision_tower)


def test_remembered_latents_belong_to_seed_timestep_and_weights(shipped):
    lmm = interp.load("tiny-difflmm", dtype=torch.float32)
    diffusion = lmm.model.model.diffusion
    pixels = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with vision_cache(lmm.model) as cache, torch.no_grad():
        first = diffusion.latents(pixels, [1, 2])
        assert torch.equal(diffusion.latents(pixels, [1, 2]), first) and cache.hits == 1
        assert not torch.equal(diffusion.latents(pixels, [1, 3])[:, 1], first[:, 1])
        lmm.model.config.timestep = 300
        assert not torch.equal(diffusion.latents(pixels, [1, 2]), first)
        lmm.model.config.timestep = 100
        next(diffusion.vae.parameters()).mul_(1.5)
        assert not cache.refresh()
        assert not torch.equal(diffusion.latents(pixels, [1, 2]), first)
