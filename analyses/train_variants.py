"""What each part of DiffLMM's eyes is worth: short trainings with parts taken away, several seeds, paired intervals.

    python analyses/train_variants.py --seeds 2 3 4 --steps 480 240 --out runs/variants

The frozen parts are those of the shipped mini-llava and mini-difflmm. Each variant and seed goes through LLaVA's two
stages (other seeds see other scenes, too) into OUT/VARIANT-SEED-STEPS, which ``interp.load`` takes; then all are
measured on the same test scenes. What is done already is not done again. Writes variants.csv, variants.md and
variants.png: each variant's grounding and noun recall beside those of ``both``.

``both``: mini-difflmm's parts as they are, with all of CLIP and a projector that begins with random weights. ``clip``:
the U-Net's feature is cut off before the projector. ``diffusion``: CLIP's tokens are; the implicit captioner still has
them. ``empty``: the U-Net sees an empty caption in place of the implicit one.
``diffusion-empty``: both, so that nothing comes from CLIP. ``t-N``: as ``both``, with noise of timestep N.
``wide``: the projector begins with PyTorch's initial weights, as in the released code, not with deviation 0.02.
``loud``: as ``wide``, and the feature's norm begins at 10. ``llava``: mini-llava. All of them are plain weights of the
same model: what is cut off is zero and stays zero.

For the claims of ``compare_claims.py`` train at full length: --variants llava both --steps 2000 2560 1600.
"""

from training.variants.command import main

if __name__ == "__main__":
    main(__doc__)
