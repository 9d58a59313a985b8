"""Trains mini-sam: a small SamModel, class-agnostic, on the masks of synthetic scenes with point and box prompts.

    python analyses/train_mini_sam.py --llava runs/train --work runs/train-mini-sam --out data/mini-sam

``--llava`` is the work folder of ``train_mini_llava.py``: SAM's encoder had been trained before (as an autoencoder);
this one begins with the first three layers of mini-llava's CLIP.

Losses are SAM's (arXiv 2304.02643, appendix A): focal and dice 20 : 1, the least over three masks for an ambiguous
prompt, and the squared error of the predicted IoU. One departure: half of the mean over the three is added, so that
none of them dies where objects are never ambiguous and the last one, which attend-and-segment takes, is of use. Every
part is seeded, logs to WORK/log.jsonl and is skipped if it is done already; training that was interrupted resumes.
Parts: scenes, train, export, evaluate (run one alone with --part).
"""

from training.mini_sam.command import main

if __name__ == "__main__":
    main(__doc__)
