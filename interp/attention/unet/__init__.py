"""The same inside a diffusion model's U-Net: `hooks.record_unet` (through `interp.record`), `cells.patch_cells`."""
