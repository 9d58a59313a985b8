"""Trains mini-difflmm: a small latent diffusion model on scenes, then LLaVA's two stages as mini-llava had them.

    python analyses/train_mini_difflmm.py --llava runs/train --work runs/train-difflmm --out data/mini-difflmm

``--llava`` is the work folder of ``train_mini_llava.py``: its tokenizer, scenes, CLIP and language model are taken as
they are, and stages, order of scenes and steps are its own to its third round of stage 2. What it is given of CLIP
lacks colours (eraser), and its projector begins with the words of captions (aligned). No loss ever sees a mask, box or
position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done already; what was interrupted goes
on from where it was saved. Parts: autoencoder, posteriors, unet, eraser, aligned, samples, projector, lora, export (run
one alone with --part). For another training of LLaVA's stages: --seed, and a work folder with links to what the parts
before have made (autoencoder.pt, posteriors.npy, scaling.json, unet.pt, eraser.safetensors, nouns.npy).
"""

from training.mini_difflmm.command import main

if __name__ == "__main__":
    main(__doc__)
