from tiny_models import parts


def build(seed=0):
    """Images of 32 pixels, latents of 16 x 16, and 8 x 8 cells behind up block 1 of a U-Net of four levels."""
    import torch

    from interp.models.difflmm import DiffLMMConfig, DiffLMMForConditionalGeneration, DiffLMMProcessor

    tokens = parts.tokenizer(image_token="<image>")
    vae = {"block_out_channels": [8, 8], "down_block_types": ["DownEncoderBlock2D"] * 2,
           "up_block_types": ["UpDecoderBlock2D"] * 2, "latent_channels": 4, "norm_num_groups": 4,
           "scaling_factor": 0.3}  # fmt: skip
    unet = {"block_out_channels": [8, 8, 16, 16],
            "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
            "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
            "cross_attention_dim": 12, "attention_head_dim": 2, "layers_per_block": 1,
            "norm_num_groups": 4}  # fmt: skip
    vision = {"model_type": "clip_vision_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3,
              "num_attention_heads": 2, "image_size": 24, "patch_size": 3}  # fmt: skip
    config = DiffLMMConfig(
        vision_config=vision, text_config={"model_type": "llama", **parts.text(tokens)}, vae_config=vae,
        unet_config=unet, image_size=32, image_token_index=tokens.image_token_id,
    )  # fmt: skip
    model = parts.finished(DiffLMMForConditionalGeneration, config, tokens, seed)
    with torch.no_grad():
        for part in (model.model.diffusion, model.model.vision_tower, model.model.multi_modal_projector):
            for weight in part.parameters():
                if weight.ndim > 1:
                    torch.nn.init.xavier_normal_(weight)
        # The U-Net's norms carry a change anywhere to everywhere; CLIP's part of a token is that of its own patch.
        projector = model.model.multi_modal_projector
        projector.linear[0].weight[:, : projector.reduce[0].out_features] *= 0.3
    return model, DiffLMMProcessor.from_config(config, tokens)
