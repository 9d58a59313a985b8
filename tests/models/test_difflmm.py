import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, LlamaConfig

import interp
from interp.models import difflmm
from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor
from interp.models.difflmm.encoder import content_seeds, draws

PROMPT = "What is on the left?"
VAE = {
    "block_out_channels": [8, 8],
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 0.3,
}
UNET = {
    "block_out_channels": [8, 8, 16, 16],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
"""Four levels: images of 32 pixels, latents of 16 x 16, and 8 x 8 cells behind up block 1."""


@pytest.fixture(scope="module")
def tiny_config(tiny_tokenizer):
    """Builds the configuration of a DiffLMM of 3 layers x 4 heads over 8 x 8 cells of 4 pixels."""

    def make(**changes):
        vision = CLIPVisionConfig(
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=3,
            num_attention_heads=2,
            image_size=24,
            patch_size=3,
        )
        text = LlamaConfig(
            vocab_size=len(tiny_tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            initializer_range=0.15,
            pad_token_id=tiny_tokenizer.pad_token_id,
            bos_token_id=tiny_tokenizer.bos_token_id,
            eos_token_id=tiny_tokenizer.eos_token_id,
        )
        given = {
            "vision_config": vision,
            "text_config": text,
            "vae_config": VAE,
            "unet_config": UNET,
            "image_size": 32,
            "image_token_index": tiny_tokenizer.convert_tokens_to_ids("<image>"),
        }
        return DiffLMMConfig(**(given | changes))

    return make


@pytest.fixture(scope="module")
def build(tiny_config, tiny_tokenizer):
    """Builds (model, processor) of that configuration, with random weights."""

    def make(**changes):
        torch.manual_seed(0)
        config = tiny_config(**changes)
        model = DiffLMMForConditionalGeneration(config).eval()
        livelier(model)
        model.generation_config.suppress_tokens = [config.image_token_id]
        return model, DiffLMMProcessor.from_config(config, tiny_tokenizer)

    return make


def livelier(model):
    """Weights so large that the noise, the timestep and the implicit caption can be seen in the feature."""
    with torch.no_grad():
        for part in (model.model.diffusion, model.model.vision_tower, model.model.multi_modal_projector):
            for weight in part.parameters():
                if weight.ndim > 1:
                    torch.nn.init.xavier_normal_(weight)


@pytest.fixture
def tiny(build):
    return build()


@pytest.fixture
def lmm(tiny):
    return interp.wrap(*tiny)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    return [rng.integers(0, 256, size, dtype=np.uint8) for size in ((40, 52, 3), (33, 33, 3), (60, 30, 3))]


def pixels(processor, images, **options):
    return processor.image_processor([Image.fromarray(i) for i in images], return_tensors="pt", **options)


def features(model, **inputs):
    with torch.no_grad():
        return torch.stack(model.get_image_features(**inputs).pooler_output)


# What it sees


def test_every_size_is_that_of_the_configuration(build, tiny_config, images):
    for changes, cells, channels in (
        ({}, 8, 16),
        ({"up_block_index": 0, "vision_config": CLIPVisionConfig(image_size=12, patch_size=3, hidden_size=16,
          intermediate_size=16, num_hidden_layers=2, num_attention_heads=2)}, 4, 16),
        ({"captioner_hidden_size": 5, "projector_feature_size": 7}, 8, 16),
    ):  # fmt: skip
        model, processor = build(**changes)
        out = model.get_image_features(**pixels(processor, images))
        assert out.last_hidden_state.shape == (3, channels, cells, cells)
        assert torch.stack(out.pooler_output).shape == (3, cells * cells, 32)
        assert model.config.image_seq_length == cells * cells and model.config.patch_size == 32 // cells
    assert model.model.multi_modal_projector.captioner[0].out_features == 5
    assert model.model.multi_modal_projector.reduce[0].out_features == 7


def test_the_feature_is_what_the_whole_u_net_has_behind_that_block(build, images):
    """The whole U-Net and autoencoder of diffusers, and its own scheduler, with a hook on the block."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    model, processor = build(timestep=300)
    model.double()
    values = pixels(processor, images)["pixel_values"].double()
    unet, vae = UNet2DConditionModel(**UNET).double().eval(), AutoencoderKL(**VAE).double().eval()
    for whole, part in ((unet, model.model.diffusion.unet), (vae, model.model.diffusion.vae)):
        assert not whole.load_state_dict(part.state_dict(), strict=False).unexpected_keys
    seen = {}
    unet.up_blocks[1].register_forward_hook(lambda module, args, output: seen.update(feature=output))
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    seeds = [3, 4, 5]
    of_latent, noise = draws([difflmm.encoder.mixed(0, s) for s in seeds], 1, (4, 16, 16))[0]
    context = torch.randn(3, 64, 12).double()
    with torch.no_grad():
        latent = vae.encode(values).latent_dist
        z = (latent.mean + latent.std * of_latent) * 0.3
        unet(scheduler.add_noise(z, noise, torch.tensor([300])), 300, context)
        got = model.model.diffusion(values, context, seeds)
    torch.testing.assert_close(got, seen["feature"], atol=1e-5, rtol=1e-5)
    assert got.std() > 0.05


def test_feature_and_clip_tokens_of_one_scale_count_alike_whatever_their_own(build):
    model, _ = build(same_scale=True)
    as_published, _ = build()
    feature, clip = torch.randn(2, 16, 8, 8), torch.randn(2, 64, 16)
    projector, plain = model.model.multi_modal_projector, as_published.model.multi_modal_projector
    plain.load_state_dict(projector.state_dict())
    with torch.no_grad():
        want = projector(feature, clip)
        torch.testing.assert_close(projector(feature, 40 * clip + 3), want, atol=1e-4, rtol=1e-4)
        assert (plain(feature, 40 * clip + 3) - plain(feature, clip)).abs().max() > 1
        seen = {}
        projector.linear.register_forward_hook(lambda module, args, output: seen.update(joined=args[0]))
        projector(feature, clip)
    feature, clip = seen["joined"].split([projector.reduce[0].out_features, 16], -1)
    torch.testing.assert_close(clip.mean(-1), torch.zeros(2, 64), atol=1e-4, rtol=0)
    torch.testing.assert_close(clip.var(-1, unbiased=False), torch.ones(2, 64), atol=2e-2, rtol=0)
    torch.testing.assert_close(feature.mean(1), torch.zeros(2, feature.shape[-1]), atol=1e-4, rtol=0)
    torch.testing.assert_close(feature.var((1, 2), unbiased=False), torch.ones(2), atol=2e-2, rtol=0)


def test_a_feature_of_the_same_scale_is_not_lost_behind_a_bias_that_grows(build):
    """It was: divided by its deviation over channels, bias and all, it became a constant, and got no gradient."""
    model, _ = build(same_scale=True)
    feature, clip = torch.randn(2, 16, 8, 8), torch.randn(2, 64, 16)
    projector = model.model.multi_modal_projector
    with torch.no_grad():
        moved = (projector(feature.roll(1, 0), clip) - projector(feature, clip)).abs().mean()
        projector.reduce[0].bias += torch.linspace(20, 40, len(projector.reduce[0].bias))
        still = (projector(feature.roll(1, 0), clip) - projector(feature, clip)).abs().mean()
    assert still > moved / 2 > 1e-3


def test_clip_sees_the_image_that_its_own_processor_would_make(tiny, images):
    from transformers import CLIPImageProcessorPil

    model, processor = tiny
    got = model.model.clip_pixels(pixels(processor, images[1:2])["pixel_values"])
    square = np.asarray(Image.fromarray(images[1]).resize((32, 32), Image.Resampling.BICUBIC))
    plain = CLIPImageProcessorPil(do_resize=False, do_center_crop=False)(Image.fromarray(square), return_tensors="pt")
    want = torch.nn.functional.interpolate(plain["pixel_values"], size=(24, 24), mode="bilinear", align_corners=False)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_the_caption_and_the_timestep_reach_the_feature(build, images):
    model, processor = build(noise="mean")
    inputs = pixels(processor, images)
    before = model.get_image_features(**inputs).last_hidden_state
    model.config.timestep = 700
    assert (model.get_image_features(**inputs).last_hidden_state - before).abs().max() > 1e-3
    model.config.timestep = 100
    with torch.no_grad():
        model.model.multi_modal_projector.caption_position += torch.randn(64, 12)
    assert (model.get_image_features(**inputs).last_hidden_state - before).abs().max() > 1e-3


def test_what_is_not_needed_does_not_exist(tiny):
    names = [name for name, _ in tiny[0].named_parameters()]
    assert not [
        n for n in names if "vae.decoder" in n or "post_quant" in n or "unet.conv_out" in n or "text_model" in n
    ]
    assert {n.split("up_blocks.")[1][0] for n in names if "unet.up_blocks" in n} == {"0", "1"}


# Random draws


def test_an_image_has_one_result_whatever_stands_beside_it(tiny, images):
    model, processor = tiny
    together = features(model, **pixels(processor, images))
    backwards = features(model, **pixels(processor, images[::-1])).flip(0)
    alone = torch.cat([features(model, **pixels(processor, [image])) for image in images])
    torch.testing.assert_close(together, backwards, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-5)


def test_draws_go_by_the_seeds_and_not_by_what_was_drawn_before(tiny, images):
    model, processor = tiny
    values = pixels(processor, images)["pixel_values"]
    first = features(model, pixel_values=values, seeds=[1, 2, 3])
    state = torch.get_rng_state()
    torch.manual_seed(99)
    assert torch.equal(features(model, pixel_values=values, seeds=torch.tensor([1, 2, 3])), first)
    torch.set_rng_state(state)
    features(model, pixel_values=values)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    assert (features(model, pixel_values=values, seeds=[1, 2, 4]) - first).abs().amax((1, 2)).gt(1e-3).tolist() == [
        False,
        False,
        True,
    ]


def test_the_configured_seed_changes_every_draw(build, images):
    (model, processor), (other, _) = build(), build(seed=1)
    inputs = pixels(processor, images)
    assert ((features(model, **inputs) - features(other, **inputs)).abs().amax((1, 2)) > 1e-3).all()


def test_seeds_stand_for_the_content(tiny, images):
    _, processor = tiny
    seeds = pixels(processor, images)["seeds"]
    assert seeds.dtype == torch.int64 and len(set(seeds.tolist())) == 3
    changed = images[0].copy()
    changed[0, 0, 0] ^= 1
    assert pixels(processor, [images[0].copy(), changed])["seeds"].tolist()[0] == seeds[0]
    assert pixels(processor, [changed])["seeds"][0] != seeds[0]
    turned = np.ascontiguousarray(images[0].reshape(52, 40, 3))  # the same bytes in another shape
    assert pixels(processor, [turned])["seeds"][0] != seeds[0]
    values = pixels(processor, images)["pixel_values"]
    assert content_seeds(values) == content_seeds(values.clone()) and len(set(content_seeds(values))) == 3


def test_an_ensemble_is_the_mean_over_its_members(build, images):
    model, processor = build(ensemble_size=3)
    values = pixels(processor, images)["pixel_values"]
    context = torch.randn(3, 64, 12)
    encoder = model.model.diffusion
    with torch.no_grad():
        got = encoder(values, context, [5, 6, 7])
        latent = encoder.vae.encode(values).latent_dist
        drawn = draws([difflmm.encoder.mixed(0, s) for s in (5, 6, 7)], 3, (4, 16, 16))
        members = [encoder.unet(encoder.noised(latent.mean + latent.std * a, b), 100, context).sample for a, b in drawn]
        model.config.ensemble_size = 1
        torch.testing.assert_close(encoder(values, context, [5, 6, 7]), members[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(got, sum(members) / 3, atol=1e-5, rtol=1e-5)
    assert (members[0] - members[1]).abs().max() > 1e-2


def test_draws_are_standard_normal_and_of_each_other_independent():
    drawn = draws([1, 2], 2, (4, 32, 32)).flatten(3)
    assert drawn.shape == (2, 2, 2, 4096)
    flat = drawn.reshape(8, -1)
    assert flat.mean(1).abs().max() < 0.06 and (flat.std(1) - 1).abs().max() < 0.05
    assert (torch.corrcoef(flat) - torch.eye(8)).abs().max() < 0.06


def test_the_mean_mode_draws_nothing(build, images):
    (model, processor), (other, _) = build(noise="mean"), build(noise="mean", seed=5, ensemble_size=3)
    values = pixels(processor, images)["pixel_values"]
    got = features(model, pixel_values=values, seeds=[1, 2, 3])
    assert torch.equal(got, features(other, pixel_values=values, seeds=[4, 5, 6]))
    sampled = build()[0]
    many = torch.stack([features(sampled, pixel_values=values, seeds=[s] * 3) for s in range(3)])
    assert (many[0] - got).abs().max() > 1e-3


# Training


def test_gradients_reach_the_captioner_through_the_frozen_u_net(tiny, images):
    model, processor = tiny
    model.train()
    text = difflmm.template(processor, PROMPT)
    inputs = difflmm.prepare(processor, images[:1], [text])
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == model.config.image_token_id, -100)
    model(**inputs, labels=labels).loss.backward()
    projector = model.model.multi_modal_projector
    for name, weight in projector.named_parameters():
        assert weight.grad is not None and weight.grad.abs().max() > 0, name
    frozen = [*model.model.diffusion.named_parameters(), *model.model.vision_tower.named_parameters()]
    assert frozen and not [name for name, weight in frozen if weight.requires_grad or weight.grad is not None]


def test_the_captioners_gradient_is_that_of_finite_differences(build, images):
    model, processor = build()
    model.double()
    values = pixels(processor, images[:1])["pixel_values"].double()
    weight = model.model.multi_modal_projector.captioner[0].weight
    torch.manual_seed(3)
    direction, weighing = torch.randn_like(weight), torch.randn(1, 16, 8, 8, dtype=torch.float64)

    def value():
        return (model.get_image_features(pixel_values=values, seeds=[1]).last_hidden_state * weighing).sum()

    (gradient,) = torch.autograd.grad(value(), weight)
    step = 1e-5
    with torch.no_grad():
        weight += step * direction
        above = value()
        weight -= 2 * step * direction
        difference = (above - value()) / (2 * step)
    assert difference.abs() > 1e-4
    torch.testing.assert_close((gradient * direction).sum(), difference, rtol=1e-4, atol=1e-7)


# As a Hugging Face model


def test_a_saved_model_loads_through_interp_and_through_the_auto_classes(tiny, lmm, images, tmp_path):
    from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor

    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    want = model.state_dict()
    for again in (interp.load(tmp_path).model, AutoModelForImageTextToText.from_pretrained(tmp_path)):
        got = again.state_dict()
        assert got.keys() == want.keys() and all(torch.equal(got[k], v) for k, v in want.items())
        assert type(again) is DiffLMMForConditionalGeneration
        assert not [n for n, p in again.model.diffusion.named_parameters() if p.requires_grad]
    config = AutoConfig.from_pretrained(tmp_path)
    own = [name for name in vars(model.config) if name in DiffLMMConfig.__annotations__]
    assert len(own) == 15 and all(getattr(config, name) == getattr(model.config, name) for name in own)
    assert config.unet_config == UNET and config.vision_config.image_size == 24 and config.grid_side == 8
    made = AutoProcessor.from_pretrained(tmp_path)
    assert type(made) is DiffLMMProcessor and type(made.image_processor) is type(processor.image_processor)
    text = difflmm.template(processor, PROMPT)
    for key, value in difflmm.prepare(processor, images[:1], [text]).items():
        assert torch.equal(difflmm.prepare(made, images[:1], [text])[key], value), key
    loaded = interp.load(tmp_path)
    assert loaded.generate(images[0], PROMPT, 8) == lmm.generate(images[0], PROMPT, 8)


def test_missing_weights_of_the_u_net_are_listed_not_made_up(tiny, tmp_path):
    from safetensors.torch import load_file, save_file

    from interp.models._hf import BrokenCheckpoint

    model, processor = tiny
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("model.diffusion.unet.conv_in.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BrokenCheckpoint, match=r"lacks 1 .*diffusion\.unet\.conv_in\.weight"):
        interp.load(tmp_path)


def test_batches_answer_as_single_images_do(lmm, images):
    prompts = [PROMPT, "Describe the image in detail.", "A cat?"]
    together = lmm.generate_batch(images, prompts, 10)
    assert together == [lmm.generate(i, p, 10) for i, p in zip(images, prompts, strict=True)]
    assert len(set(together)) > 1 and all(together)


def test_generation_with_a_cache_says_what_it_says_without(tiny, images):
    model, processor = tiny
    inputs = difflmm.prepare(processor, images[:1], [difflmm.template(processor, PROMPT)])
    said = [model.generate(**inputs, max_new_tokens=8, do_sample=False, use_cache=use) for use in (True, False)]
    assert torch.equal(*said) and said[0].shape[1] > inputs["input_ids"].shape[1]


def test_beams_and_several_answers_come_from_one_look_at_the_image(tiny, images, monkeypatch):
    model, processor = tiny
    inputs = difflmm.prepare(processor, images[:2], [difflmm.template(processor, PROMPT)] * 2)
    seen = []
    encode = model.model.get_image_features
    monkeypatch.setattr(model.model, "get_image_features", lambda *a, **k: seen.append(1) or encode(*a, **k))
    out = model(**inputs)
    assert seen == [1] and out.image_hidden_states.shape == (2 * 64, 32)
    monkeypatch.undo()
    beams = model.generate(**inputs, max_new_tokens=4, num_beams=2, num_return_sequences=2, do_sample=False)
    assert len(beams) == 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sees_nearly_the_same_with_the_same_draws(build, images, dtype):
    model, processor = build()
    inputs = pixels(processor, images)
    want = features(model, **inputs)
    model.to(dtype)
    got = features(model, pixel_values=inputs["pixel_values"].to(dtype), seeds=inputs["seeds"])
    other = features(model, pixel_values=inputs["pixel_values"].to(dtype), seeds=inputs["seeds"] + 1)
    assert got.dtype == dtype
    assert (got.float() - want).norm() < 0.05 * want.norm() < (other.float() - want).norm()
    assert interp.wrap(model, processor).generate(images[0], PROMPT, 4) is not None


def test_a_device_map_gives_the_same_answer(tiny, lmm, images, tmp_path):
    model, processor = tiny
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    parts = {"model.vision_tower": "cpu", "model.diffusion": "disk", "model.multi_modal_projector": "cpu"}
    parts |= {"model.language_model": "disk", "lm_head": "cpu"}
    spread = interp.load(tmp_path / "model", device_map=parts, offload_folder=tmp_path / "off", dtype=torch.float32)
    assert spread.generate(images[0], PROMPT, 8) == lmm.generate(images[0], PROMPT, 8)


def test_an_image_token_outside_the_vocabulary_is_no_harm(build, images, tiny_tokenizer):
    """Vicuna has no image token; the language model stays as published."""
    import copy

    model, processor = build(image_token_index=len(tiny_tokenizer))
    inputs = difflmm.prepare(processor, images[:1], [difflmm.template(processor, PROMPT)])
    own = copy.copy(inputs)
    own["input_ids"] = inputs["input_ids"].clone()
    places = own["input_ids"] == tiny_tokenizer.convert_tokens_to_ids("<image>")
    own["input_ids"][places] = len(tiny_tokenizer)
    got = model(**own).logits
    model.config.image_token_index = tiny_tokenizer.convert_tokens_to_ids("<image>")
    assert torch.equal(model(**inputs).logits, got)
    assert got.shape[-1] == len(tiny_tokenizer)


def test_images_and_places_that_do_not_match_are_refused(tiny, images):
    model, processor = tiny
    inputs = difflmm.prepare(processor, images[:1], [difflmm.template(processor, PROMPT)])
    with pytest.raises(ValueError, match="places for 64 image tokens, but the images give 0"):
        model(input_ids=inputs["input_ids"])
    with pytest.raises(ValueError, match="places for 63 image tokens, but the images give 64"):
        first = int((inputs["input_ids"][0] == model.config.image_token_id).nonzero()[0])
        model(**{**inputs, "input_ids": inputs["input_ids"].index_fill(1, torch.tensor([first]), 5)})
    with pytest.raises(ValueError, match=r"\(1, 3, 16, 16\); expected \(sample, 3, 32, 32\)"):
        model.get_image_features(pixel_values=torch.zeros(1, 3, 16, 16))
    with pytest.raises(ValueError, match="takes vision_feature_layer from its configuration"):
        model(**inputs, vision_feature_layer=-1)
    with pytest.raises(ValueError, match="2 seeds for 1 images"):
        model.get_image_features(pixel_values=torch.zeros(1, 3, 32, 32), seeds=[1, 2])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"image_size": 40}, "image_size is 40; expected a multiple of 16"),
        ({"up_block_index": 4}, "up_block_index is 4; the U-Net has up blocks 0 to 3"),
        ({"up_block_index": 0}, "CLIP sees 8 x 8 patches, but up block 0 gives 4 x 4 cells"),
        ({"timestep": 1000}, "timestep is 1000; expected 0 to 999"),
        ({"scheduler_config": {"beta_schedule": "cosine"}}, "beta_schedule is 'cosine'"),
        ({"ensemble_size": 0}, "ensemble_size is 0"),
        ({"vision_feature_select_strategy": "full"}, "vision_feature_select_strategy 'default'"),
    ],
)
def test_sizes_that_cannot_be_are_refused(tiny_config, changes, message):
    with pytest.raises(ValueError, match=message):
        tiny_config(**changes)


@pytest.mark.parametrize("schedule", ["linear", "scaled_linear"])
def test_the_share_of_signal_is_that_of_diffusers_schedulers(tiny_config, schedule):
    from diffusers import DDPMScheduler

    given = {"beta_start": 0.001, "beta_end": 0.02, "beta_schedule": schedule, "num_train_timesteps": 500}
    theirs = DDPMScheduler(**given).alphas_cumprod
    for timestep in (0, 1, 100, 499):
        ours = tiny_config(scheduler_config=given, timestep=timestep).kept_signal
        assert ours == pytest.approx(float(theirs[timestep]), rel=1e-4)


# Grid and capture


def test_the_grid_is_the_padded_square(tiny):
    model, processor = tiny
    for size, box in {(40, 60): (0, -10, 60, 50), (60, 40): (-10, 0, 50, 60), (50, 50): (0, 0, 50, 50)}.items():
        image = np.zeros((*size, 3), dtype=np.uint8)
        ids = difflmm.prepare(processor, [image], [difflmm.template(processor, PROMPT)])["input_ids"][0]
        grid = difflmm.grid(model, processor, size, ids)
        assert grid.shape == (8, 8) and grid.box == box
        assert (ids[torch.from_numpy(grid.token_index)] == model.config.image_token_id).all()
    processor.patch_size = 8
    ids = difflmm.prepare(processor, [image], [difflmm.template(processor, PROMPT)])["input_ids"][0]
    with pytest.raises(ValueError, match=r"16 image tokens.*8 x 8 = 64"):
        difflmm.grid(model, processor, size, ids)


def test_the_square_is_padded_with_the_mean_colour(tiny):
    _, processor = tiny
    values = pixels(processor, [np.full((20, 60, 3), 255, dtype=np.uint8)])["pixel_values"][0]
    assert values.shape == (3, 32, 32)
    assert values[:, 0].abs().max() < 0.01 and values[:, 16].min() > 0.99


@pytest.mark.parametrize("size", [(80, 120), (120, 80), (96, 96)])
def test_a_marker_at_a_cells_centre_lands_in_that_cells_pixels(tiny, size):
    model, processor = tiny
    plain = np.full((*size, 3), 60, dtype=np.uint8)
    ids = difflmm.prepare(processor, [plain], [difflmm.template(processor, PROMPT)])["input_ids"][0]
    x0, y0, x1, y1 = difflmm.grid(model, processor, size, ids).box
    rows, cols = np.indices((32, 32)) + 0.5
    for row, col in ((2, 2), (2, 5), (5, 3)):
        x, y = x0 + (col + 0.5) / 8 * (x1 - x0), y0 + (row + 0.5) / 8 * (y1 - y0)
        marked = plain.copy()
        marked[int(y) - 3 : int(y) + 4, int(x) - 3 : int(x) + 4] = 255
        before, after = pixels(processor, [plain, marked])["pixel_values"].numpy()
        weight = np.abs(after - before).sum(0)
        weight[weight < weight.max() / 2] = 0  # leaves out the ringing of the resize
        centre = (weight * rows).sum() / weight.sum(), (weight * cols).sum() / weight.sum()
        patch = model.config.patch_size
        assert (int(centre[0] // patch), int(centre[1] // patch)) == (row, col)


def test_templates_are_the_released_ones(tiny):
    want = (
        "A chat between a curious human and an artificial intelligence assistant. The assistant gives helpful, "
        "detailed, and polite answers to the human's questions. USER: <image>\nDescribe the image in detail. ASSISTANT:"
    )
    assert difflmm.template(tiny[1], "Describe the image in detail.") == want
    assert difflmm.template(tiny[1], want) == want


def test_captured_rows_are_those_of_eager_attention(tiny, lmm, images):
    model, processor = tiny
    answer = "A brown dog sits on a red chair."
    capture = interp.capture(lmm, images[0], PROMPT, answer, tokens="all")
    text = difflmm.template(processor, PROMPT)
    inputs = difflmm.prepare(processor, images[:1], [f"{text} {answer}"])
    model.set_attn_implementation({"text_config": "eager"})
    attentions = model(**inputs, output_attentions=True).attentions
    count = len(capture.tokens)
    positions = torch.from_numpy(capture.grid.token_index).flatten()
    want = torch.stack([a[0, :, -count - 1 : -1][..., positions] for a in attentions], 1)  # head layer token patch
    want = want.permute(2, 1, 0, 3).reshape(count, 3, 4, 8, 8)
    torch.testing.assert_close(capture.attention, want, atol=1e-5, rtol=1e-5)
    assert capture.grid.shape == (8, 8) and capture.grid.box == (0, -6, 52, 46)


def test_a_transformer_lens_bridge_sees_the_same(lmm, images):
    pytest.importorskip("transformer_lens")
    answer = "A brown dog sits on a red chair."
    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, images[0], PROMPT, answer)
    assert {id(x) for x in bridge.parameters()} == {id(x) for x in lmm.model.parameters()}
    with torch.no_grad():
        logits, cache = bridge.run_with_cache(asked.input_ids, **asked.inputs)
        torch.testing.assert_close(
            logits, lmm.model(input_ids=asked.input_ids, **asked.inputs).logits, atol=1e-5, rtol=1e-5
        )
        other = bridge(asked.input_ids, **(asked.inputs | {"seeds": asked.inputs["seeds"] + 1}))
    want = interp.capture(lmm, images[0], PROMPT, answer, tokens="all")
    torch.testing.assert_close(asked.capture(cache).attention, want.attention, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        interp.phrase_maps(asked.capture(cache)).maps, interp.phrase_maps(want).maps, atol=1e-5, rtol=1e-5
    )
    assert (other - logits).abs().max() > 1e-3  # the seeds of the draws reach the model


def test_batched_captures_equal_single_ones_and_depend_on_no_order(lmm, images):
    answers = ["A brown dog sits on a red chair.", "Two cups.", "An old umbrella in front of a blue house."]
    samples = [
        interp.Sample(str(i), image, PROMPT, answer)
        for i, (image, answer) in enumerate(zip(images, answers, strict=True))
    ]
    together = {c.sample_id: c for c in interp.captures(lmm, samples, batch=3)}
    backwards = {c.sample_id: c for c in interp.captures(lmm, samples[::-1], batch=2)}
    for sample in samples:
        alone = interp.capture(lmm, sample.image, PROMPT, sample.answer, sample_id=sample.id)
        for other in (together[sample.id], backwards[sample.id]):
            torch.testing.assert_close(other.attention, alone.attention, atol=1e-5, rtol=1e-5)


def test_a_generated_answers_replay_sees_the_same_draws(lmm, images):
    replayed = interp.capture(lmm, images[0], PROMPT, phrases=[(0, 1)], tokens="all", max_new_tokens=6)
    streamed = interp.capture(lmm, images[0], PROMPT, phrases=[(0, 1)], tokens="all", max_new_tokens=6, streaming=True)
    assert replayed.answer == streamed.answer
    torch.testing.assert_close(replayed.attention, streamed.attention, atol=1e-5, rtol=1e-5)


# The published size, without its weights


@pytest.fixture(scope="module")
def published():
    with torch.device("meta"):
        return DiffLMMForConditionalGeneration(DiffLMMConfig())


def count(module):
    return sum(weight.numel() for weight in module.parameters())


def test_published_parts_have_their_published_numbers_of_parameters(published):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    model, config = published.model, published.config
    assert count(model.language_model) + count(published.lm_head) == 6_738_415_616  # Vicuna 7B
    assert count(model.vision_tower) == 303_507_456  # CLIP ViT-L/14-336
    with torch.device("meta"):
        assert count(UNet2DConditionModel.from_config(config.unet_config)) == 859_520_964  # Stable Diffusion 1.5
        assert count(AutoencoderKL.from_config(config.vae_config)) == 83_653_863
    captioner = 1024 * 768 + 768 + 768 * 768 + 768 + 576 * 768
    projector = 2 * 1280 + 1280 * 1024 + 1024 + 2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 576 * 4096
    assert count(model.multi_modal_projector) == captioner + projector
    assert count(model.diffusion.unet) < 780e6 and count(model.diffusion.vae) < 35e6  # nothing that is not needed


def test_published_shapes(published):
    config = published.config
    assert (config.grid_side, config.image_seq_length, config.patch_size) == (24, 576, 16)
    assert (config.latent_side, config.feature_channels) == (48, 1280)
    values = torch.zeros(2, 3, 384, 384, device="meta")
    assert published.model.clip_pixels(values).shape == (2, 3, 336, 336)
    out = published.get_image_features(pixel_values=values, seeds=[1, 2])
    assert out.last_hidden_state.shape == (2, 1280, 24, 24)
    assert torch.stack(out.pooler_output).shape == (2, 576, 4096)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_the_published_adapter_fits_every_linear_layer(published):
    import peft

    names = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    text = published.model.language_model
    adapted = peft.get_peft_model(
        text, peft.LoraConfig(r=128, lora_alpha=256, target_modules=names), low_cpu_mem_usage=True
    )
    lora = {n: p for n, p in adapted.named_parameters() if "lora_" in n}
    assert len(lora) == 32 * 7 * 2
    assert sum(p.numel() for p in lora.values()) == 32 * 128 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    adapted.unload()
