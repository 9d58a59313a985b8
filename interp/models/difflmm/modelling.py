"""DiffLMM: a LLaVA whose image tokens come from a frozen diffusion model joined with frozen CLIP (arXiv 2410.08209)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate, layer_norm
from transformers import AutoModel, GenerationConfig, LlavaForConditionalGeneration, LlavaModel
from transformers.activations import ACT2FN
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.llava.modeling_llava import (
    LlavaCausalLMOutputWithPast,
    LlavaModelOutputWithPast,
    LlavaPreTrainedModel,
)
from transformers.utils import GENERATION_CONFIG_NAME
from transformers.utils.constants import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.utils.generic import can_return_tuple

from interp.models._shared import SHARED, weights
from interp.models.difflmm.configuration import DiffLMMConfig
from interp.models.difflmm.encoder import DiffusionEncoder

EPSILON = 1e-5  # as of `layer_norm`


class DiffLMMProjector(nn.Module):
    """All that is trained beside the language model: implicit captioner, projector and their position embeddings."""

    def __init__(self, config: Any):
        super().__init__()
        clip, text, act = config.vision_config.hidden_size, config.text_config.hidden_size, config.projector_hidden_act
        caption, hidden = config.unet_config["cross_attention_dim"], config.captioner_hidden_size
        feature = config.projector_feature_size
        self.same_scale = config.same_scale
        self.captioner = nn.Sequential(nn.Linear(clip, hidden), ACT2FN[act], nn.Linear(hidden, caption))
        self.caption_position = nn.Parameter(torch.zeros(config.image_seq_length, caption))
        self.norm = nn.LayerNorm(config.feature_channels)
        self.reduce = nn.Sequential(nn.Linear(config.feature_channels, feature), ACT2FN[act])  # a convolution of 1 x 1
        self.linear = nn.Sequential(nn.Linear(feature + clip, text), ACT2FN[act], nn.Linear(text, text))
        self.position = nn.Parameter(torch.zeros(config.image_seq_length, text))

    def caption(self, clip: Float[Tensor, "sample patch clip"]) -> Float[Tensor, "sample patch caption"]:
        """What stands in place of a text prompt: the U-Net's cross-attention context, from CLIP's tokens."""
        return self.captioner(clip) + self.caption_position

    def forward(
        self, feature: Float[Tensor, "sample feature row col"], clip: Float[Tensor, "sample patch clip"]
    ) -> Float[Tensor, "sample patch hidden"]:
        """Image tokens for the language model, row by row."""
        reduced = self.reduce(self.norm(feature.flatten(2).transpose(1, 2)))
        clip = clip.to(reduced)
        if self.same_scale:  # over patches too: a bias that grows would leave of the feature a constant of deviation 1
            centred = reduced - reduced.mean(1, keepdim=True)
            reduced = centred / (centred.square().mean((1, 2), keepdim=True) + EPSILON).sqrt()
            clip = layer_norm(clip, clip.shape[-1:])
        return self.linear(torch.cat([reduced, clip], -1)) + self.position


class DiffLMMPreTrainedModel(LlavaPreTrainedModel):
    """What transformers must know: the configuration, how new weights begin, and what one device must hold whole."""

    config: Any
    config_class = DiffLMMConfig
    _no_split_modules: ClassVar[list[str]] = [
        "DiffusionEncoder",
        "DiffLMMProjector",
        "CLIPEncoderLayer",
        "LlamaDecoderLayer",
    ]

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, DiffLMMProjector):
            std = self.config.position_initializer_range
            nn.init.normal_(module.caption_position, std=std)
            nn.init.normal_(module.position, std=std)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """As for every transformers model, also from a folder that shares weights with another model's.

        Loading forgets what is frozen, so that it is frozen again.
        """
        folder = pretrained_model_name_or_path
        if folder is not None and (Path(folder) / SHARED).is_file():
            loaded = cls._from_shared(folder, *args, **kwargs)
        else:
            loaded = super().from_pretrained(folder, *args, **kwargs)
        freeze(loaded[0] if isinstance(loaded, tuple) else loaded)
        return loaded

    @classmethod
    def _from_shared(cls, folder: Any, *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """What ``from_pretrained`` gives, from the folder's own weights and those that lie elsewhere."""
        config = config or DiffLMMConfig.from_pretrained(folder)
        loaded = super().from_pretrained(None, *args, config=config, state_dict=weights(folder), **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        model.config.name_or_path = model.name_or_path = str(folder)
        if model.can_generate() and (Path(folder) / GENERATION_CONFIG_NAME).is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        return loaded


def freeze(model: Any) -> None:
    """CLIP, the autoencoder and the U-Net get no gradients; gradients still pass through the U-Net to its context."""
    inner = getattr(model, "model", model)
    inner.vision_tower.requires_grad_(False)
    inner.diffusion.requires_grad_(False)


class DiffLMMModel(DiffLMMPreTrainedModel, LlavaModel):
    """CLIP, diffusion encoder, projector and language model, without its head. CLIP and diffusion are frozen."""

    def __init__(self, config: Any):
        super(LlavaModel, self).__init__(config)
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.diffusion = DiffusionEncoder(config)
        self.multi_modal_projector = DiffLMMProjector(config)
        self.language_model = AutoModel.from_config(config.text_config)
        freeze(self)
        self.post_init()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Float[Tensor, "sample 3 height width"],
        seeds: Tensor | Sequence[int] | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """``pooler_output``: each image's tokens (patch, hidden); ``last_hidden_state``: the diffusion feature.

        ``seeds`` are whole numbers, one for each image, for its random draws; None takes them from the pixel values.

        Raises:
            ValueError: images of another size, or another number of seeds.
        """
        side = self.config.image_size
        if pixel_values.ndim != 4 or pixel_values.shape[1:] != (3, side, side):
            raise ValueError(f"pixel_values are {tuple(pixel_values.shape)}; expected (sample, 3, {side}, {side})")
        if seeds is not None:
            seeds = [int(seed) for seed in (seeds.tolist() if isinstance(seeds, Tensor) else seeds)]
            if len(seeds) != len(pixel_values):
                raise ValueError(f"{len(seeds)} seeds for {len(pixel_values)} images; expected one for each")
        clip = self.clip_tokens(pixel_values)
        context = self.multi_modal_projector.caption(clip)
        feature = self.diffusion(pixel_values, context, seeds)
        tokens: Any = list(self.multi_modal_projector(feature, clip))
        return BaseModelOutputWithPooling(last_hidden_state=feature, pooler_output=tokens)

    def clip_tokens(self, pixel_values: Float[Tensor, "sample 3 height width"]) -> Float[Tensor, "sample patch clip"]:
        """CLIP's patches at the layer that is read."""
        seen = self.vision_tower(self.clip_pixels(pixel_values), output_hidden_states=True, return_dict=True)
        return seen.hidden_states[self.config.vision_feature_layer][:, 1:]

    def clip_pixels(
        self, pixel_values: Float[Tensor, "sample 3 height width"]
    ) -> Float[Tensor, "sample 3 clip_height clip_width"]:
        """The same images as CLIP takes them: its size (bilinear) and its mean and deviation."""
        size = self.config.vision_config.image_size
        small = interpolate(pixel_values.float(), size=(size, size), mode="bilinear", align_corners=False)
        mean, std = (small.new_tensor(of).view(3, 1, 1) for of in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        plain = small * self.config.image_std + self.config.image_mean
        return ((plain - mean) / std).to(pixel_values)

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        seeds: Tensor | Sequence[int] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaModelOutputWithPast:
        """The language model's last hidden states. The image token need not be in its vocabulary.

        Raises:
            ValueError: images and image places in the text that do not match, or an option that is not DiffLMM's.
        """
        for name in ("vision_feature_layer", "vision_feature_select_strategy", "image_sizes"):  # LLaVA's
            if kwargs.pop(name, None) is not None:
                raise ValueError(f"DiffLMM takes {name} from its configuration alone; leave it out of the call")
        encoded: Any = (mm_encoder_outputs or {}).get("image")
        if encoded is None and pixel_values is not None:
            encoded = self.get_image_features(pixel_values, seeds, return_dict=True)
        images = None if encoded is None else torch.cat(list(encoded.pooler_output), 0)
        if inputs_embeds is None and input_ids is not None:
            inputs_embeds = self._embedded(input_ids, images)
        outputs = self.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            **kwargs,
        )
        return LlavaModelOutputWithPast(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            hidden_states=outputs.hidden_states,
            attentions=outputs.attentions,
            image_hidden_states=images,
        )

    def _embedded(self, input_ids: Tensor, images: Tensor | None) -> Tensor:
        """The text's embeddings with the image's tokens in their places."""
        places = input_ids == self.config.image_token_id
        embedded = self.get_input_embeddings()(input_ids.masked_fill(places, 0))
        if images is None and input_ids.shape[1] == 1:
            return embedded  # one step of generation: not worth waiting for the GPU to count
        count, given = int(places.sum()), 0 if images is None else len(images)
        if count != given:
            raise ValueError(f"the text has places for {count} image tokens, but the images give {given}")
        if images is None:
            return embedded
        return embedded.masked_scatter(places[..., None].to(embedded.device), images.to(embedded))


class DiffLMMForConditionalGeneration(DiffLMMPreTrainedModel, LlavaForConditionalGeneration):
    """DiffLMM with its language model's head."""

    def __init__(self, config: Any):
        super(LlavaForConditionalGeneration, self).__init__(config)
        self.model = DiffLMMModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()

    def get_image_features(
        self, pixel_values: Tensor, seeds: Tensor | Sequence[int] | None = None, **kwargs: Any
    ) -> BaseModelOutputWithPooling | tuple:
        """See ``DiffLMMModel.get_image_features``."""
        return self.model.get_image_features(pixel_values, seeds, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        seeds: Tensor | Sequence[int] | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        **kwargs: Any,
    ) -> LlavaCausalLMOutputWithPast | tuple:
        """Logits, and the loss where there are ``labels``; all else as LLaVA's ``forward``."""
        given: Any = {"input_ids": input_ids, "pixel_values": pixel_values, "seeds": seeds}
        return super().forward(**given, mm_encoder_outputs=mm_encoder_outputs, **kwargs)
