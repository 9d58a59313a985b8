"""Rows recorded inside a U-Net are those of its own weights, and recording changes nothing."""

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0

import interp
from interp.attention.recorder import NotRecorded
from interp.attention.unet.cells import patch_cells
from interp.attention.unet.recorder import UnknownProcessor

SIZES = {
    "down_blocks.1": (8, 8),
    "down_blocks.2": (4, 4),
    "mid_block": (2, 2),
    "up_blocks.1": (4, 4),
    "up_blocks.2": (8, 8),
}
"""Where there is attention, and at which resolution for latents of 16 x 16."""


@pytest.fixture(scope="module")
def unet():
    torch.manual_seed(0)
    model = UNet2DConditionModel(
        block_out_channels=[8, 8, 16, 16],
        down_block_types=["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        up_block_types=["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        cross_attention_dim=12,
        attention_head_dim=2,
        layers_per_block=1,
        norm_num_groups=4,
    ).eval()
    for name, weight in model.named_parameters():
        if "to_q" in name or "to_k" in name:
            torch.nn.init.normal_(weight, std=0.25)  # far from uniform attention
    return model


@pytest.fixture(scope="module")
def given():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(2, 4, 16, 16, generator=generator), 100, torch.randn(2, 5, 12, generator=generator)


def eager_scores(unet, run):
    """Name -> what `Attention.get_attention_scores` gives for the hidden states that each module got in a pass."""
    given, hooks = {}, []
    modules = {
        name.removesuffix(".processor"): unet.get_submodule(name.removesuffix(".processor"))
        for name in unet.attn_processors
    }
    for name, attn in modules.items():

        def keep(attn, args, kwargs, name=name):
            context = kwargs.get("encoder_hidden_states")
            given[name] = (attn.to_q(args[0]), attn.to_k(args[0] if context is None else context))

        hooks.append(attn.register_forward_pre_hook(keep, with_kwargs=True))
    run()
    for hook in hooks:
        hook.remove()
    return {
        name: attn.get_attention_scores(*map(attn.head_to_batch_dim, given[name])).unflatten(0, (-1, attn.heads))
        for name, attn in modules.items()
    }


def test_rows_are_those_of_the_eager_processor_under_either_processor(unet, given):
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        unet.set_attn_processor(processor)
        with torch.no_grad():
            expected = eager_scores(unet, lambda: unet(*given))
            with interp.record(unet, None, kind="both") as found:
                unet(*given)
        assert set(found.attention) == set(expected) and len(expected) == 14
        for name, rows in found.attention.items():
            assert rows.dtype == torch.float32 and rows.shape == expected[name].shape
            torch.testing.assert_close(rows, expected[name], atol=1e-6, rtol=0)
            assert rows.std() > 0.2 * rows.mean()  # not uniform, or the test would say nothing


def test_the_eager_processor_multiplies_by_the_recorded_rows(unet, given):
    """Inside the pass itself: what `AttnProcessor` computes its output with."""
    unet.set_attn_processor(AttnProcessor())
    kept, names = {}, {module: name for name, module in unet.named_modules()}
    kind = type(unet.mid_block.attentions[0].transformer_blocks[0].attn1)
    original = kind.get_attention_scores

    def keep(attn, *args, **kwargs):
        kept[names[attn]] = original(attn, *args, **kwargs)
        return kept[names[attn]]

    with pytest.MonkeyPatch.context() as patch, torch.no_grad(), interp.record(unet, None, kind="both") as found:
        patch.setattr(kind, "get_attention_scores", keep)
        unet(*given)
    assert set(kept) == set(found.attention)
    for name, rows in found.attention.items():
        torch.testing.assert_close(rows, kept[name].unflatten(0, (-1, 2)), atol=1e-6, rtol=0)


def test_rows_are_softmax_of_the_modules_own_weights(unet, given):
    """The plain formula, on the hidden states that reach one module of each kind."""
    name = "up_blocks.1.attentions.0.transformer_blocks.0"
    seen, cells = {}, [0, 7, 15]
    hooks = [
        unet.get_submodule(f"{name}.{part}").register_forward_pre_hook(
            lambda m, args, kwargs, part=part: seen.update({part: args[0]}), with_kwargs=True
        )
        for part in ("attn1", "attn2")
    ]
    with torch.no_grad(), interp.record(unet, cells, kind="both", blocks=["up_blocks.1.attentions.0"]) as found:
        unet(*given)
    for hook in hooks:
        hook.remove()
    assert list(found.attention) == [f"{name}.attn1", f"{name}.attn2"]
    for part, source in (("attn1", seen["attn1"]), ("attn2", given[2])):
        module = unet.get_submodule(f"{name}.{part}")
        weights = [module.to_q.weight.double(), module.to_k.weight.double()]
        heads, dim = 2, 8
        q, k = seen[part].double() @ weights[0].T, source.double() @ weights[1].T
        for head in range(heads):
            own = slice(head * dim, head * dim + dim)
            scores = torch.einsum("bqd,bkd->bqk", q[:, cells, own], k[..., own]) / dim**0.5
            expected = (scores - scores.amax(-1, keepdim=True)).exp()
            expected /= expected.sum(-1, keepdim=True)
            got = found.attention[f"{name}.{part}"][:, head].double()
            torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def test_recording_leaves_output_processors_and_hooks_as_they_were(unet, given):
    unet.set_attn_processor(AttnProcessor2_0())
    processors = unet.attn_processors
    with torch.no_grad():
        before = unet(*given).sample
        with interp.record(unet, [0, 1], kind="both"):
            during = unet(*given).sample
            assert all(unet.attn_processors[name] is processors[name] for name in processors)
        after = unet(*given).sample
    assert torch.equal(before, during) and torch.equal(before, after)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())
    with pytest.raises(RuntimeError, match="on purpose"), interp.record(unet, [0]):
        raise RuntimeError("on purpose")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in unet.modules())


def test_gradients_pass_as_without_recording(unet, given):
    latent, step, context = given
    grads = []
    for record in (False, True):
        leaf = context.clone().requires_grad_()
        if record:
            with interp.record(unet, [0]) as found:
                unet(latent, step, leaf).sample.sum().backward()
            assert not any(rows.requires_grad for rows in found.attention.values())
        else:
            unet(latent, step, leaf).sample.sum().backward()
        grads.append(leaf.grad)
    assert torch.equal(*grads) and grads[0].abs().sum() > 0
    unet.zero_grad()


def test_kind_and_blocks_choose_what_is_recorded(unet, given):
    with (
        torch.no_grad(),
        interp.record(unet, [0]) as cross,
        interp.record(unet, [0], kind="self", blocks=["mid_block"]) as own,
    ):
        unet(*given)
    assert {name.split(".")[-1] for name in cross.attention} == {"attn2"} and len(cross.attention) == 7
    assert list(own.attention) == ["mid_block.attentions.0.transformer_blocks.0.attn1"]
    assert all(rows.shape[2:] == (1, 5) for rows in cross.attention.values())
    assert next(iter(own.attention.values())).shape == (2, 2, 1, 4)
    sizes = {".".join(name.split(".")[:2]).replace(".attentions", ""): size for name, size in cross.resolution.items()}
    assert sizes == SIZES


def test_cells_may_differ_by_resolution_and_by_sample(unet, given):
    with torch.no_grad(), interp.record(unet, None, kind="both") as every:
        unet(*given)
    per_sample = torch.tensor([[3, 5], [9, -1]])
    with torch.no_grad(), interp.record(unet, {(4, 4): per_sample, (8, 8): [60]}, kind="both") as found:
        unet(*given)
    assert {found.resolution[name] for name in found.attention} == {(4, 4), (8, 8)}
    for name, rows in found.attention.items():
        whole = every.attention[name]
        if found.resolution[name] == (8, 8):
            torch.testing.assert_close(rows, whole[:, :, [60]])
        else:
            torch.testing.assert_close(rows[0], whole[0][:, [3, 5]])
            torch.testing.assert_close(rows[1, :, 0], whole[1][:, 9])
            assert rows[1, :, 1].isnan().all() and not rows[1, :, 0].isnan().any()


def test_maps_that_are_no_squares_keep_their_sides(unet, given):
    wide = torch.randn(1, 4, 16, 32, generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), interp.record(unet, patch_cells([(0, 15)], (8, 16)), blocks=["up_blocks.2"]) as found:
        unet(wide, 100, given[2][:1])
    assert set(found.resolution.values()) == {(8, 16)}
    assert all(cells.tolist() == [[15]] for cells in found.cells.values())


def test_a_mask_over_the_caption_is_the_processors_own(unet, given):
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    for processor in (AttnProcessor(), AttnProcessor2_0()):
        unet.set_attn_processor(processor)
        with torch.no_grad(), interp.record(unet, [0, 3], blocks=["mid_block"]) as found:
            unet(*given, encoder_attention_mask=mask)
        (rows,) = found.attention.values()
        assert (rows[0, ..., 3:] == 0).all() and (rows[1] > 0).all()
        torch.testing.assert_close(rows.sum(-1), torch.ones(2, 2, 2))


def test_fused_projections_give_the_same_rows(unet, given):
    with torch.no_grad(), interp.record(unet, [0, 1], kind="both") as plain:
        unet(*given)
    try:
        unet.fuse_qkv_projections()
        with torch.no_grad(), interp.record(unet, [0, 1], kind="both") as fused:
            unet(*given)
    finally:
        unet.unfuse_qkv_projections()
    assert set(fused.attention) == set(plain.attention)
    for name, rows in fused.attention.items():
        torch.testing.assert_close(rows, plain.attention[name], atol=1e-5, rtol=0)


def test_half_precision_gives_rows_in_single_precision_that_sum_to_one(unet, given):
    import copy

    half = copy.deepcopy(unet).bfloat16()
    latent, step, context = given
    with torch.no_grad(), interp.record(half, [0, 1]) as found:
        half(latent.bfloat16(), step, context.bfloat16())
    for rows in found.attention.values():
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows.sum(-1), torch.ones(rows.shape[:-1]))


def test_the_autoencoders_self_attention_with_its_group_norm_is_recorded_too():
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=[8, 8],
        down_block_types=["DownEncoderBlock2D"] * 2,
        up_block_types=["UpDecoderBlock2D"] * 2,
        norm_num_groups=4,
    ).eval()
    seen = {}
    attn = vae.encoder.mid_block.attentions[0]
    hook = attn.register_forward_pre_hook(lambda m, args: seen.update(x=args[0]))
    with torch.no_grad(), interp.record(vae.encoder, [2, 9], kind="self") as found:
        vae.encode(torch.randn(1, 3, 8, 12))
        hook.remove()
        x = attn.group_norm(seen["x"].flatten(2)).transpose(1, 2)
        expected = (attn.to_q(x)[:, [2, 9]] @ attn.to_k(x).mT / attn.to_q.out_features**0.5).softmax(-1)
    assert found.resolution == {"mid_block.attentions.0": (4, 6)}
    torch.testing.assert_close(found.attention["mid_block.attentions.0"][:, 0], expected, atol=1e-6, rtol=0)


def test_several_passes_are_told_apart(unet, given):
    latent, step, context = given
    with torch.no_grad(), interp.record(unet, [0], blocks=["mid_block"]) as found:
        unet(latent, step, context)
        unet(latent, step, -context)
    assert len(found.passes) == 2
    first, second = (next(iter(p.values())) for p in found.passes)
    assert not torch.equal(first, second)
    with pytest.raises(NotRecorded, match="2 forward passes"):
        _ = found.attention


def test_a_pass_that_broke_off_does_not_mix_with_the_next(unet, given):
    latent, step, context = given
    with torch.no_grad(), interp.record(unet, [0]) as found:
        with pytest.raises(RuntimeError):
            unet(latent, step, context[..., :3])
        unet(latent, step, context)
    assert len(found.passes) == 2 and len(found.passes[1]) == 7


# Where patches lie


@pytest.mark.parametrize(
    ("size", "cells"),
    [
        ((4, 4), [2 * 4 + 1]),  # the same resolution
        ((8, 8), [4 * 8 + 2, 4 * 8 + 3, 5 * 8 + 2, 5 * 8 + 3]),  # finer: all cells inside
        ((2, 2), [2]),  # coarser: the one it lies in
        ((3, 3), [3 + 0, 3 + 1, 6 + 0, 6 + 1]),  # neither divides: all that share area
        ((1, 1), [0]),
    ],
)
def test_a_patch_is_found_at_every_resolution(size, cells):
    assert patch_cells([(2, 1)], (4, 4))(*size).tolist() == cells


@pytest.mark.parametrize("size", [(6, 6), (12, 12), (3, 3), (5, 7)])
def test_patches_cover_exactly_what_they_overlap(size):
    """Against areas: a cell belongs to a patch where the patch's indicator, drawn finely, touches it."""
    fine = 420
    for row, col in ((0, 0), (2, 5), (5, 3)):
        drawn = np.zeros((fine, fine))
        drawn[row * fine // 6 : (row + 1) * fine // 6, col * fine // 6 : (col + 1) * fine // 6] = 1
        cell = np.arange(fine)
        inside = {
            int(y * size[0] // fine) * size[1] + int(x * size[1] // fine)
            for y in cell[drawn.any(1)]
            for x in cell[drawn.any(0)][:: max(1, fine // 84)]
        } | {
            int(y * size[0] // fine) * size[1] + int(cell[drawn.any(0)][-1] * size[1] // fine)
            for y in cell[drawn.any(1)]
        }
        assert set(patch_cells([(row, col)], (6, 6))(*size).tolist()) == inside


def test_a_patchs_row_is_the_mean_of_its_cells(unet, given):
    under = patch_cells([(0, 1), (3, 2)], (4, 4))
    with torch.no_grad(), interp.record(unet, under) as found, interp.record(unet, None) as every:
        unet(*given)
    fine = next(name for name in found.attention if name.startswith("up_blocks.2"))
    whole = every.attention[fine]
    expected = torch.stack([whole[:, :, [2, 3, 10, 11]].mean(2), whole[:, :, [52, 53, 60, 61]].mean(2)], 2)
    torch.testing.assert_close(found.by_patch[fine], expected)
    coarse = next(name for name in found.attention if name.startswith("mid_block"))
    torch.testing.assert_close(found.by_patch[coarse], every.attention[coarse][:, :, [0, 3]])
    with pytest.raises(ValueError, match="patch_cells"):
        _ = every.by_patch


# What goes wrong is said


def test_patches_are_not_guessed_where_nobody_knows_where_the_queries_lie():
    """A transformer that cuts its latent into patches: 64 tokens, and no map of 8 x 8 cells comes by."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=1, sample_size=16, patch_size=2,
        num_embeds_ada_norm=8, norm_num_groups=4,
    ).eval()  # fmt: skip
    given = {"timestep": torch.tensor([1]), "class_labels": torch.tensor([1])}
    latent = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    with (
        torch.no_grad(),
        pytest.raises(ValueError, match="64 queries, but no map"),
        interp.record(model, patch_cells([(0, 5)], (8, 8)), kind="self"),
    ):
        model(latent, **given)
    with torch.no_grad(), interp.record(model, [5], kind="self") as inside:
        model(latent, **given)
    (rows,) = inside.attention.values()
    assert rows.shape == (1, 2, 1, 64)


@pytest.mark.parametrize("patches", [[], [(0, 4)], [(-1, 0)]])
def test_patches_outside_the_grid_are_named(patches):
    with pytest.raises(ValueError, match="inside the grid of 4 x 4"):
        patch_cells(patches, (4, 4))


def test_wrong_questions_are_answered_with_what_there_is(unet, given):
    for options, said in (
        ({"kind": "crossed"}, "crossed"),
        ({"blocks": ["up_blocks.7"]}, "down_blocks.1.*up_blocks.2.*mid_block"),
        ({"layers": [1]}, "blocks"),
    ):
        with pytest.raises(Exception, match=said), interp.record(unet, [0], **options):
            pass
    with torch.no_grad(), pytest.raises(ValueError, match="2 x 2 = 4 cells"), interp.record(unet, [4]):
        unet(*given)
    with pytest.raises(NotRecorded, match="no cross-attention came by"), interp.record(unet, [0]) as found:
        _ = found.attention
    with pytest.raises(TypeError, match="no module of diffusers' `Attention`"), interp.record(unet.time_proj, [0]):
        pass
    with pytest.raises(TypeError, match="holds 0 U-Nets"), interp.record(torch.nn.Linear(2, 2), [0], kind="self"):
        pass


def test_a_processor_that_may_compute_something_else_is_refused(unet, given):
    class Another(AttnProcessor):
        pass

    before = unet.attn_processors
    unet.set_attn_processor(Another())
    try:
        with torch.no_grad(), pytest.raises(UnknownProcessor, match="Another"), interp.record(unet, [0]):
            unet(*given)
    finally:
        unet.set_attn_processor(before)


# Through DiffLMM


def test_a_word_of_difflmm_can_be_followed_into_its_unet(tiny_tokenizer, photo):
    from transformers import CLIPVisionConfig, LlamaConfig

    from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor

    torch.manual_seed(0)
    small = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = DiffLMMConfig(
        vision_config=CLIPVisionConfig(image_size=24, patch_size=3, **small),
        text_config=LlamaConfig(vocab_size=len(tiny_tokenizer), pad_token_id=3, **small),
        vae_config={
            "block_out_channels": [8, 8],
            "down_block_types": ["DownEncoderBlock2D"] * 2,
            "up_block_types": ["UpDecoderBlock2D"] * 2,
            "norm_num_groups": 4,
        },
        unet_config={
            "block_out_channels": [8, 8, 16, 16],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 12,
            "attention_head_dim": 2,
            "layers_per_block": 1,
            "norm_num_groups": 4,
        },
        image_size=32,
        image_token_index=tiny_tokenizer.convert_tokens_to_ids("<image>"),
    )
    lmm = interp.wrap(
        DiffLMMForConditionalGeneration(config).eval(), DiffLMMProcessor.from_config(config, tiny_tokenizer)
    )
    capture = interp.capture(lmm, photo, "What is there?", "A brown dog.")
    maps = interp.phrase_maps(capture)
    looked = maps.maps[0, 1, 0]
    row, col = divmod(int(looked.argmax()), looked.shape[1])

    inputs = lmm.inputs([photo], [lmm.family.template(lmm.processor, "What is there?")])
    under = interp.patch_cells([(row, col)], maps.grid.shape)
    before = lmm.model.get_image_features(inputs["pixel_values"], inputs["seeds"]).last_hidden_state
    with torch.no_grad(), interp.record(lmm.model, under, kind="cross", blocks=["up_blocks.1"]) as inside:
        during = lmm.model.get_image_features(inputs["pixel_values"], inputs["seeds"]).last_hidden_state
    assert torch.equal(before, during)
    assert maps.grid.shape == (8, 8) and len(inside.by_patch) == 2
    for name, rows in inside.by_patch.items():
        assert rows.shape == (1, 2, 1, 64) and inside.resolution[name] == (4, 4)
        assert inside.cells[name].tolist() == [[row // 2 * 4 + col // 2]]
        torch.testing.assert_close(rows.sum(-1), torch.ones(1, 2, 1))
