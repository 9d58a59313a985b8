"""Trains mini-llava: a CLIP on captions, a Llama on text, then LLaVA's two stages with dense checkpoints.

    python analyses/train_mini_llava.py --work runs/train --out data/mini-llava

No loss ever sees a mask, box or position. Every part is seeded, logs to WORK/log.jsonl and is skipped if it is done
already; a stage that was interrupted resumes from its newest checkpoint. Parts: tokenizer, scenes, close_ups, clip,
text, projector, lora, export (run one alone with --part).

Another training of LLaVA's stages, with CLIP and language model as they ship (45 minutes of one core):

    python analyses/train_mini_llava.py --shipped data/mini-llava --seed 4 --until lora_last \
        --work runs/train-4 --out runs/seed-4/mini-llava
"""

from training.mini_llava import main

if __name__ == "__main__":
    main(__doc__)
