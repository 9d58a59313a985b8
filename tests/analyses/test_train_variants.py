"""The ablation of DiffLMM's eyes: a variant lacks what its name says, and goes on lacking it while it learns."""

import pytest
import torch

from interp.models.difflmm import DiffLMMForConditionalGeneration
from interp.plugins import data_folder, shipped
from training.stages import freeze_all_but_projector
from training.variants import eyes

pytestmark = pytest.mark.skipif("mini-difflmm" not in shipped(), reason="mini-difflmm does not ship here")


@pytest.fixture
def learnt(request):
    """(the variant's model after three steps on noise, its images, what it was told)."""
    variant = request.param
    model = DiffLMMForConditionalGeneration.from_pretrained(data_folder() / "mini-difflmm" / "base")
    model = model.float().train()
    eyes.take_away(model, variant, data_folder() / "mini-llava")
    freeze_all_but_projector(model)
    eyes.hold(model)
    pixels = torch.rand(2, 3, 96, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    free = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in free]
    optimizer = torch.optim.AdamW(free, lr=1e-2, weight_decay=0.0)
    for _ in range(3):
        torch.stack(model.get_image_features(pixels, [1, 2]).pooler_output).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    assert any(not torch.equal(p, was) for p, was in zip(free, before, strict=True)), "nothing was learnt at all"
    return model.eval(), pixels


def tokens(model, clip_changed=False, feature_changed=False):
    """The projector's image tokens, after a change of one of its two inputs."""
    draw = torch.Generator().manual_seed(3)
    config = model.config
    clip = torch.randn(1, config.image_seq_length, config.vision_config.hidden_size, generator=draw)
    feature = torch.randn(1, config.feature_channels, config.grid_side, config.grid_side, generator=draw)
    with torch.no_grad():
        return model.model.multi_modal_projector(feature * (-1) ** feature_changed, clip * (-1) ** clip_changed)


def captions(model, pixels):
    """What the U-Net is told of two images."""
    with torch.no_grad():
        seen = model.model.vision_tower(model.model.clip_pixels(pixels), output_hidden_states=True)
        return model.model.multi_modal_projector.caption(seen.hidden_states[-2][:, 1:])


@pytest.mark.parametrize(
    "learnt, sees_clip, sees_feature, is_told",
    [
        ("both", True, True, True),
        ("clip", True, False, True),
        ("diffusion", False, True, True),
        ("empty", True, True, False),
        ("diffusion-empty", False, True, False),
        ("t-300", True, True, True),
    ],
    indirect=["learnt"],
)
def test_a_variant_lacks_exactly_what_its_name_says_also_after_learning(learnt, sees_clip, sees_feature, is_told):
    model, pixels = learnt
    plain = tokens(model)
    assert torch.equal(plain, tokens(model, clip_changed=True)) != sees_clip
    assert torch.equal(plain, tokens(model, feature_changed=True)) != sees_feature
    first, second = captions(model, pixels)
    assert torch.equal(first, second) != is_told


@pytest.mark.parametrize("learnt", ["empty"], indirect=True)
def test_an_empty_caption_is_the_one_that_the_diffusion_model_was_trained_with(learnt):
    model, pixels = learnt
    told, empty = captions(model, pixels)[0], eyes.empty_caption(data_folder() / "mini-llava")
    assert torch.equal(told, empty.repeat(len(told) // len(empty), 1))
    unet, noised = model.model.diffusion.unet, torch.randn(1, 4, 24, 24, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        apart = unet(noised, 100, told[None]).sample - unet(noised, 100, empty[None]).sample
    assert apart.abs().max() < 1e-4, "a caption repeated is another caption for the U-Net"


@pytest.mark.parametrize("learnt", ["t-300"], indirect=True)
def test_a_variants_timestep_is_that_of_its_noise(learnt):
    assert learnt[0].config.timestep == 300 and learnt[0].model.diffusion.config.timestep == 300


def test_a_variant_that_does_not_exist_is_refused():
    with pytest.raises(Exception, match="no variant 'cilp'"):
        eyes.check("cilp")
    assert eyes.check("t-7") == "t-7"
