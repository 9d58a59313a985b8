"""The diffusion model as an eye: image -> latent -> noise -> one pass of the U-Net -> one up block's output."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from interp.models.difflmm.configuration import DiffLMMConfig


class DiffusionEncoder(nn.Module):
    """Frozen autoencoder without its decoder, and U-Net without what follows the chosen up block; both of diffusers.

    ``timestep``, ``noise``, ``seed`` and ``ensemble_size`` are read from the configuration at every call.
    """

    def __init__(self, config: DiffLMMConfig):
        # Here, since it takes seconds, which other models need not wait for.
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        super().__init__()
        self.config = config
        self.vae = without_decoder(AutoencoderKL.from_config(config.vae_config))
        unet = UNet2DConditionModel.from_config(config.unet_config)
        self.unet = until_up_block(unet, config.up_block_index)

    def forward(
        self,
        pixel_values: Float[Tensor, "sample 3 height width"],
        context: Float[Tensor, "sample token channel"],
        seeds: Sequence[int] | None = None,
    ) -> Float[Tensor, "sample feature row col"]:
        """The up block's output, averaged over the ensemble."""
        features = [
            self.unet(noised, self.config.timestep, context).sample for noised in self.latents(pixel_values, seeds)
        ]
        return torch.stack(features).mean(0)

    def latents(
        self, pixel_values: Float[Tensor, "sample 3 height width"], seeds: Sequence[int] | None = None
    ) -> Float[Tensor, "member sample channel row col"]:
        """What the U-Net sees, for each member of the ensemble. Nothing that is trained takes part in it.

        The noised latent is sqrt(k) z + sqrt(1 - k) e, with k = ``config.kept_signal``, z the scaled latent, e noise.
        """
        own = content_seeds(pixel_values) if seeds is None else seeds
        latent = self.posterior(pixel_values, own)
        if self.config.noise == "mean":
            return self.noised(latent.mean, 0)[None]
        keys = [mixed(self.config.seed, seed) for seed in own]
        of_latent, noise = draws(keys, self.config.ensemble_size, latent.mean.shape[1:]).to(latent.mean).unbind(1)
        return self.noised(latent.mean + latent.std * of_latent, noise)

    @torch.no_grad()  # nothing before the latent is ever trained
    def posterior(self, pixel_values: Float[Tensor, "sample 3 height width"], seeds: Sequence[int]) -> Any:
        """diffusers' distribution of the images' latents. The seeds are the images' names, for whoever knows them."""
        return self.vae.encode(pixel_values.to(self.vae.dtype)).latent_dist

    def noised(self, latent: Tensor, noise: Tensor | int) -> Tensor:
        """The latent, scaled as the U-Net knows it, with the timestep's share of noise."""
        given, kept = self.vae.config, self.config.kept_signal
        scaled = (latent - (given.get("shift_factor") or 0)) * given["scaling_factor"]
        return kept**0.5 * scaled + (1 - kept) ** 0.5 * noise


def without_decoder(vae: Any) -> Any:
    """The autoencoder, in which only ``encode`` works."""
    vae.decoder = vae.post_quant_conv = None
    return vae


def until_up_block(unet: Any, index: int) -> Any:
    """The U-Net, whose output is now that of the up block; all behind it is gone."""
    del unet.up_blocks[index + 1 :]
    unet.conv_norm_out = None
    unet.conv_out = nn.Identity()
    return unet


def draws(seeds: Sequence[int], members: int, shape: Sequence[int]) -> Float[Tensor, "member 2 sample channel row col"]:
    """Normal numbers for latent and noise. Those of one image depend on its seed alone, not on batch or device."""
    samples = []
    for seed in seeds:
        generator = torch.Generator().manual_seed(seed)
        each = [torch.stack([torch.randn(tuple(shape), generator=generator) for _ in range(2)]) for _ in range(members)]
        samples.append(torch.stack(each))
    return torch.stack(samples, 2)


def mixed(seed: int, image_seed: int) -> int:
    """A seed 0..2**63 - 1 of two."""
    return number(f"{seed} {image_seed}".encode())


def content_seeds(pixel_values: Float[Tensor, "sample 3 height width"]) -> list[int]:
    """A seed from each image's own pixel values: the same image in the same precision has the same one."""
    return [number(image.float().cpu().numpy().tobytes()) for image in pixel_values.detach()]


def number(content: bytes) -> int:
    """A whole number 0..2**63 - 1 that stands for the content."""
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1
