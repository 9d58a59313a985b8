"""Trains mini-difflmm: a small latent diffusion model on scenes, then LLaVA's two stages as mini-llava had them.

    python analyses/train_mini_difflmm.py --llava runs/train --work runs/train-difflmm --out data/mini-difflmm

``--llava`` is the work folder of ``train_mini_llava.py``: its tokenizer, scenes, CLIP and language model are taken as
they are, and stages, order of scenes, seeds and steps are its own, so that the visual encoder is all that differs.
No loss ever sees a mask, box or position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done
already; what was interrupted goes on from where it was saved. Parts: autoencoder, posteriors, unet, samples,
projector, lora, export (run one alone with --part).
"""

from training.mini_difflmm.command import main

if __name__ == "__main__":
    main(__doc__)
