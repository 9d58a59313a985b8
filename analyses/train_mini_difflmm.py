"""Trains mini-difflmm: a small latent diffusion model on scenes, then LLaVA's two stages as mini-llava had them.

    python analyses/train_mini_difflmm.py --llava runs/train --work runs/train-difflmm --out data/mini-difflmm

``--llava`` is the work folder of ``train_mini_llava.py``: its tokenizer, scenes, CLIP and language model are taken as
they are, and stages, order of scenes and steps are its own to its third round of stage 2. What it is given of CLIP
lacks colours (eraser), and its projector begins with the words of captions (aligned). No loss ever sees a mask, box or
position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done already; what was interrupted goes
on from where it was saved. Parts: autoencoder, posteriors, unet, samples, eraser, aligned, projector, lora, export (run
one alone with --part).

Another training of LLaVA's stages, with CLIP, language model and diffusion model as they ship:

    python analyses/train_mini_difflmm.py --shipped data/mini-difflmm --seed 3 --llava runs/train-4 \
        --work runs/train-difflmm-3 --out runs/seed-3/mini-difflmm --mini-llava data/mini-llava

What several trainings share can be linked into each work folder: scenes.npy and scenes.json of mini-llava's;
posteriors.npy, scaling.json, eraser.safetensors and nouns.npy of mini-difflmm's.
"""

from training.mini_difflmm.command import main

if __name__ == "__main__":
    main(__doc__)
