"""Tiny random segmenters of every class of transformers, with their processors."""

import numpy as np
import pytest
import torch

import interp

SIDE, WIDTH = 32, 16
MODELS = ("sam", "sam_hq", "sam2", "edgetam")


def spread(model, seed):
    """Random weights far from zero, so that masks are no accident of rounding."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and "positional_embedding" not in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
        elif "positional_embedding" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    model.tie_weights()
    return model.eval()


def sam_processor(processor_class):
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    return processor_class(
        SamImageProcessorPil(
            size={"longest_edge": SIDE}, pad_size=square, mask_size={"longest_edge": SIDE}, mask_pad_size=square
        )
    )


def sam_configs(prefix):
    import transformers

    vision = getattr(transformers, f"{prefix}VisionConfig")(
        hidden_size=WIDTH, output_channels=WIDTH, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
        patch_size=4, window_size=4, global_attn_indexes=[1], num_pos_feats=WIDTH // 2, initializer_range=0.02,
    )  # fmt: skip
    prompts = getattr(transformers, f"{prefix}PromptEncoderConfig")(
        hidden_size=WIDTH, image_size=SIDE, patch_size=4, mask_input_channels=8
    )
    more = {"vit_dim": WIDTH} if prefix == "SamHQ" else {}
    decoder = getattr(transformers, f"{prefix}MaskDecoderConfig")(
        hidden_size=WIDTH, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=WIDTH, **more
    )
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}


def make_sam():
    from transformers import SamConfig, SamModel, SamProcessor

    return SamModel(SamConfig(**sam_configs("Sam"))), sam_processor(SamProcessor)


def make_sam_hq():
    from transformers import SamHQConfig, SamHQModel, SamHQProcessor

    return SamHQModel(SamHQConfig(**sam_configs("SamHQ"))), sam_processor(SamHQProcessor)


def hiera():
    from transformers import Sam2HieraDetConfig

    return Sam2HieraDetConfig(
        hidden_size=4, image_size=[64, 64], embed_dim_per_stage=[4, 8, 16, 32], blocks_per_stage=[1, 1, 2, 1],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip


def sam2_configs(prefix):
    import transformers

    vision = getattr(transformers, f"{prefix}VisionConfig")(
        backbone_config=hiera(), backbone_channel_list=[32, 16, 8, 4], fpn_hidden_size=WIDTH,
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
    )  # fmt: skip
    prompts = getattr(transformers, f"{prefix}PromptEncoderConfig")(
        hidden_size=WIDTH, image_size=64, patch_size=16, mask_input_channels=8
    )
    decoder = getattr(transformers, f"{prefix}MaskDecoderConfig")(
        hidden_size=WIDTH, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=WIDTH
    )
    return {"vision_config": vision, "prompt_encoder_config": prompts, "mask_decoder_config": decoder}


def sam2_like_processor():
    from transformers import Sam2Processor

    from interp.segmenters._pil import Sam2ImageProcessorPil

    return Sam2Processor(Sam2ImageProcessorPil(size={"height": 64, "width": 64}))


def make_sam2():
    from transformers import Sam2Config, Sam2Model

    return Sam2Model(Sam2Config(**sam2_configs("Sam2"))), sam2_like_processor()


class FourScales(torch.nn.Module):
    """Stands in for EdgeTAM's encoder, which is a model of timm: feature maps at four scales."""

    def __init__(self):
        super().__init__()
        sides = zip((3, 4, 8, 16), (4, 8, 16, 32), (4, 2, 2, 2), strict=True)
        self.stages = torch.nn.ModuleList(torch.nn.Conv2d(a, b, s, stride=s) for a, b, s in sides)

    def forward(self, pixel_values, **_):
        from transformers.modeling_outputs import BaseModelOutput

        maps = []
        for stage in self.stages:
            pixel_values = torch.tanh(stage(pixel_values))
            maps.append(pixel_values)
        return BaseModelOutput(last_hidden_state=maps)


def make_edgetam():
    from transformers import EdgeTamConfig, EdgeTamModel

    model = EdgeTamModel(EdgeTamConfig(**sam2_configs("EdgeTam")))
    model.vision_encoder.backbone = FourScales()
    return model, sam2_like_processor()


def wrapped(name, seed=0):
    """The segmenter of that name around a tiny random model."""
    from interp.segmenters import _hf, edgetam, sam_hq

    torch.manual_seed(seed)
    model, processor = globals()[f"make_{name}"]()
    kind = {"sam": _hf.SamLike, "sam_hq": sam_hq.SamHQ, "sam2": _hf.Sam2Like, "edgetam": edgetam.EdgeTam}[name]
    return kind(spread(model, seed), processor)


@pytest.fixture(scope="session")
def tiny_segmenter():
    """Name -> tiny segmenter, made once."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = wrapped(name) if name in MODELS else interp.load_segmenter(name)
        return made[name]

    return get


@pytest.fixture
def picture():
    """A noisy image of 40 x 52 pixels with a bright square."""
    image = np.random.default_rng(0).integers(0, 80, (40, 52, 3), dtype=np.uint8)
    image[8:24, 10:30] += 150
    return image


@pytest.fixture
def hills():
    """Five maps over 40 x 52 pixels: round hills at different places."""
    y, x = torch.meshgrid(torch.arange(40.0), torch.arange(52.0), indexing="ij")
    tops = [(10, 12), (30, 8), (20, 45), (5, 40), (33, 30)]
    return torch.stack([torch.exp(-((y - b) ** 2 + (x - a) ** 2) / 60) for b, a in tops])
