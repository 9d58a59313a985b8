"""mini-difflmm: a small latent diffusion model, then LLaVA's two stages with its feature beside CLIP's tokens."""
