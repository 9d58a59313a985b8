"""Configuration of DiffLMM. What is not given is as published (arXiv 2410.08209): Vicuna 7B, SD 1.5, CLIP L/14-336."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal, no_type_check

from huggingface_hub.dataclasses import strict
from transformers import AutoConfig, LlavaConfig
from transformers.configuration_utils import SubConfigSpec

VAE: dict[str, Any] = {
    "act_fn": "silu",
    "block_out_channels": [128, 256, 512, 512],
    "down_block_types": ["DownEncoderBlock2D"] * 4,
    "in_channels": 3,
    "latent_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 3,
    "sample_size": 512,
    "scaling_factor": 0.18215,
    "up_block_types": ["UpDecoderBlock2D"] * 4,
}
UNET: dict[str, Any] = {
    "act_fn": "silu",
    "attention_head_dim": 8,
    "block_out_channels": [320, 640, 1280, 1280],
    "cross_attention_dim": 768,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "in_channels": 4,
    "layers_per_block": 2,
    "norm_num_groups": 32,
    "out_channels": 4,
    "sample_size": 64,
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "num_train_timesteps": 1000,
}


@no_type_check  # `strict` checks the fields; other checkers miss that a configuration takes any keyword
@strict
class DiffLMMConfig(LlavaConfig):
    """Sizes of a LLaVA that sees through a diffusion model joined with CLIP.

    Args:
        vae_config, unet_config, scheduler_config: as in the folders of a diffusers pipeline.
        image_size: pixels along the side of the padded square that the diffusion model sees. CLIP sees the same image,
            resized to ``vision_config.image_size``.
        image_mean, image_std: the normalisation that pixel values are taken to have when CLIP's is put in its place.
        timestep: of the noise that is added, counted from 0.
        up_block_index: the U-Net's up block, counted from 0, whose output is the feature. Later ones do not exist.
        noise: ``"sample"`` draws latent and noise, as published; ``"mean"`` takes the mean of both and draws nothing.
        seed: of the draws, together with each image's own seed.
        ensemble_size: draws whose features are averaged.
        captioner_hidden_size: width of the implicit captioner (default: the U-Net's cross-attention width).
        projector_feature_size: channels that the U-Net's feature is projected to (default: text width / 4).
        position_initializer_range: standard deviation of new position embeddings.
        same_scale: whether the projected feature is joined with mean 0 of each channel over the image's patches and
            deviation 1 over all of them, and CLIP's tokens with mean 0 and deviation 1 over channels. As published
            they are joined as they come.
    """

    model_type = "difflmm"
    sub_configs_defaults: ClassVar[dict[str, Any]] = {
        "vision_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="clip_vision_model",
            init_kwargs={
                "hidden_size": 1024,
                "image_size": 336,
                "intermediate_size": 4096,
                "num_attention_heads": 16,
                "num_hidden_layers": 24,
                "patch_size": 14,
                "projection_dim": 768,
            },
        ),
        "text_config": SubConfigSpec(
            config_class=AutoConfig,
            model_type="llama",
            init_kwargs={"max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
        ),
    }

    vae_config: Any = None  # dict; Any for the type checker's sake, which does not know `__post_init__`
    unet_config: Any = None
    scheduler_config: Any = None
    image_size: int = 384
    image_mean: float = 0.5
    image_std: float = 0.5
    timestep: int = 100
    up_block_index: int = 1
    noise: Literal["sample", "mean"] = "sample"
    seed: int = 0
    ensemble_size: int = 1
    captioner_hidden_size: Any = None
    projector_feature_size: Any = None
    position_initializer_range: float = 1.0
    same_scale: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self.vae_config = dict(VAE if self.vae_config is None else self.vae_config)
        self.unet_config = dict(UNET if self.unet_config is None else self.unet_config)
        self.scheduler_config = dict(SCHEDULER if self.scheduler_config is None else self.scheduler_config)
        super().__post_init__(**kwargs)
        width = self.unet_config["cross_attention_dim"]
        self.captioner_hidden_size = self.captioner_hidden_size or width
        text: Any = self.text_config
        self.projector_feature_size = self.projector_feature_size or text.hidden_size // 4
        self._check()
        self.image_seq_length = self.grid_side**2

    @property
    def latent_side(self) -> int:
        """Cells along the side of the autoencoder's latent."""
        return self.image_size // 2 ** (len(self.vae_config["block_out_channels"]) - 1)

    @property
    def grid_side(self) -> int:
        """Cells along the side of the feature: the first up block leaves twice the U-Net's lowest resolution."""
        levels = len(self.unet_config["block_out_channels"])
        return self.latent_side // 2 ** max(levels - 2 - self.up_block_index, 0)

    @property
    def patch_size(self) -> int:
        """Pixels of the padded square along the side of one cell of the feature, which is one image token."""
        return self.image_size // self.grid_side

    @property
    def feature_channels(self) -> int:
        """Channels of the chosen up block's output."""
        return list(reversed(self.unet_config["block_out_channels"]))[self.up_block_index]

    @property
    def kept_signal(self) -> float:
        """Share 0..1 of the latent's variance that is left at ``timestep``: the product of 1 - beta up to it (DDPM).

        Raises:
            ValueError: a schedule that is not known here, or a timestep outside it.
        """
        given = {**SCHEDULER, **self.scheduler_config}
        start, end, steps = given["beta_start"], given["beta_end"], given["num_train_timesteps"]
        if given["beta_schedule"] not in ("linear", "scaled_linear"):
            raise ValueError(f"beta_schedule is {given['beta_schedule']!r}; expected 'scaled_linear' or 'linear'")
        if not 0 <= self.timestep < steps:
            raise ValueError(f"timestep is {self.timestep}; expected 0 to {steps - 1}")
        power = 2 if given["beta_schedule"] == "scaled_linear" else 1
        low, high = start ** (1 / power), end ** (1 / power)
        betas = ((low + (high - low) * i / (steps - 1)) ** power for i in range(self.timestep + 1))
        return math.prod(1 - beta for beta in betas)

    def _check(self) -> None:
        levels = len(self.unet_config["block_out_channels"])
        coarsest = 2 ** (len(self.vae_config["block_out_channels"]) - 1 + levels - 1)
        if self.image_size % coarsest:
            raise ValueError(
                f"image_size is {self.image_size}; expected a multiple of {coarsest}: the networks halve it to that"
            )
        if not 0 <= self.up_block_index < levels:
            raise ValueError(f"up_block_index is {self.up_block_index}; the U-Net has up blocks 0 to {levels - 1}")
        if not isinstance(self.vision_feature_layer, int) or self.vision_feature_select_strategy != "default":
            raise ValueError("vision_feature_layer must be one layer, and vision_feature_select_strategy 'default'")
        if self.ensemble_size < 1:
            raise ValueError(f"ensemble_size is {self.ensemble_size}; expected at least 1")
        vision: Any = self.vision_config
        clip = vision.image_size // vision.patch_size
        if clip != self.grid_side:
            raise ValueError(
                f"CLIP sees {clip} x {clip} patches, but up block {self.up_block_index} gives {self.grid_side} x "
                f"{self.grid_side} cells for images of {self.image_size} pixels; the two must be equal"
            )
        _ = self.kept_signal
