"""mini-llava: CLIP and language model joined by a projector, LLaVA's two stages, and what ships."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from training.clip import FEATURES, load_clip
from training.contrast import clip
from training.dialogues import TEMPLATE, Dialogues
from training.export import checkpoints_of, export_checkpoints, export_log, halved
from training.loop import compile_layers
from training.parts import Log, arguments, parsed, run
from training.pictures import GRID, MEAN, PATCH, PIXELS, STD, Rendered, render_close_ups, render_scenes
from training.shipped import llava_parts
from training.stages import Round, Start, again, lora, projector
from training.text import load_llama, text
from training.tokenizer import load_tokenizer, tokenizer


def assemble(work: Path, seed: int) -> tuple[Any, Any]:
    """LLaVA from the trained vision tower and language model, with a fresh projector; and CLIP."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    fast = load_tokenizer(work)
    clip_part, language = load_clip(work, fast), load_llama(work, fast)
    config = LlavaConfig(
        vision_config=clip_part.config.vision_config, text_config=language.config,
        image_token_id=fast.convert_tokens_to_ids("<image>"), image_seq_length=GRID**2,
        vision_feature_layer=FEATURES, vision_feature_select_strategy="default", attn_implementation="eager",
        tie_word_embeddings=True,
    )  # fmt: skip
    torch.manual_seed(seed)
    model = LlavaForConditionalGeneration(config)
    for part, weights in (
        (model.model.vision_tower, clip_part.vision_model),
        (model.model.language_model, language.model),
    ):
        own = weights.state_dict()
        if set(part.state_dict()) != set(own):
            own = {f"vision_model.{key}": value for key, value in own.items()}
        part.load_state_dict(own)
    model.tie_weights()
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 2, 3
    return model, clip_part


def for_training(work: Path) -> Start:
    """What gives mini-llava, with a fresh projector, and the batches of a round."""

    def start(how: Round, seed: int) -> tuple[Any, Dialogues]:
        data = Rendered(work, things=how.things, plain=how.plain)
        model = assemble(work, seed)[0]
        compile_layers(model.model.language_model.layers)
        return model, Dialogues(data, load_tokenizer(work), how.shares, how.answers)

    return start


def export(work: Path, log: Log, out: Path, until: str | None = None) -> None:
    """OUT/base (model, processor), OUT/clip (its text half), OUT/checkpoint-N with N counted over both stages."""
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    model, clip_part = assemble(work, 2)
    model.to(torch.bfloat16).save_pretrained(out / "base")
    images = CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS}, crop_size={"height": PIXELS, "width": PIXELS}, image_mean=MEAN, image_std=STD
    )
    LlavaProcessor(
        image_processor=images, tokenizer=load_tokenizer(work), patch_size=PATCH, chat_template=TEMPLATE,
        vision_feature_select_strategy="default", image_token="<image>", num_additional_image_tokens=1,
    ).save_pretrained(out / "base")  # fmt: skip
    (out / "clip").mkdir(exist_ok=True)
    clip_part.config.save_pretrained(out / "clip")
    text_half = {k: v for k, v in clip_part.state_dict().items() if not k.startswith("vision_model.") and v.ndim}
    text_half["logit_scale"] = clip_part.logit_scale.detach()
    save_file(halved(text_half), out / "clip" / "without_vision.safetensors")
    export_checkpoints(work, out, until)
    export_log(work, log, out, checkpoints=checkpoints_of(out))


def main(about: str | None) -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = again(arguments(about, "mini-llava"))
    a, log = parsed(parser)
    given, start = (a.work, log, a.device), for_training(a.work)
    scenes = {"scenes": lambda: (a.work / "scenes.npy").exists() or render_scenes(a.work, log)}
    trained = {
        "tokenizer": lambda: (a.work / "tokenizer").exists() or tokenizer(a.work, log),
        **scenes,
        "close_ups": lambda: (a.work / "close_ups.npy").exists() or render_close_ups(a.work, log),
        "clip": lambda: (a.work / "clip.pt").exists() or clip(*given),
        "text": lambda: text(*given),
    }
    taken = {"shipped": lambda: (a.work / "text.pt").exists() or llava_parts(a.shipped, a.work, log), **scenes}
    stages = {
        "projector": lambda: projector(*given, start, a.seed),
        "lora": lambda: lora(*given, start, a.seed + 1, a.until),
        "export": lambda: export(a.work, log, a.out, a.until),
    }
    run(parser, a.part, {**(taken if a.shipped else trained), **stages})
