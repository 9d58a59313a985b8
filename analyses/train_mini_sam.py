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

from __future__ import annotations

import os
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import torch
from _training import Log, arguments, parsed, run, train
from PIL import Image
from train_mini_llava import MEAN, STD

from interp.datasets import scenes

PIXELS, PATCH, SCENES = 96, 8, 8000
SIDE = scenes.SIZE  # of the label maps: points are drawn and boxes measured in the scene's own pixels
CELLS = PIXELS // PATCH * 4  # side of the decoder's masks
STEPS, BATCH, PROMPTS, RATE = 10_000, 12, 8, 1e-3
KINDS = (
    ("point", True), ("point", True), ("box", True), ("point", True),
    ("points", False), ("refined", True), ("points", True), ("box", False),
)  # fmt: skip
"""Of step 0, 1, ...: what prompts, and whether for three masks or for the one of unambiguous prompts."""
EVERY_MASK = 0.5  # weight of the mean over the three masks beside their least


def _scene(index: int) -> tuple[np.ndarray, np.ndarray]:
    """UInt8[PIXELS PIXELS 3], resized as the processor does, and UInt8[SIDE SIDE] with 1, 2, ... for the objects."""
    rng = scenes.generator("train", 2_000_000 + index)
    scene = scenes.compose(rng, scenes.choose(rng, "train", counts=(1, 5)))
    small = Image.fromarray(scene.image).resize((PIXELS, PIXELS), Image.Resampling.BILINEAR)
    labels = np.zeros((SIDE, SIDE), np.uint8)
    for k, mask in enumerate(scene.masks):
        labels[mask] = k + 1
    return np.asarray(small), labels


def render(work: Path, log: Log) -> None:
    """WORK/images.npy and WORK/labels.npy, of the training split."""
    images = np.lib.format.open_memmap(work / "partial_images.npy", "w+", np.uint8, (SCENES, PIXELS, PIXELS, 3))
    labels = np.lib.format.open_memmap(work / "partial_labels.npy", "w+", np.uint8, (SCENES, SIDE, SIDE))
    with Pool(os.cpu_count()) as pool:
        for i, (image, label) in enumerate(pool.imap(_scene, range(SCENES), chunksize=64)):
            images[i], labels[i] = image, label
            if i % 2000 == 0:
                log(part="scenes", done=i)
    images.flush()
    labels.flush()
    os.replace(work / "partial_images.npy", work / "images.npy")
    os.replace(work / "partial_labels.npy", work / "labels.npy")


def sam():
    """An untrained SamModel: 3 x 192 vision layers over 12 x 12 patches, all of them global, 48 x 48 masks."""
    from transformers import SamConfig, SamModel

    width = 128
    vision = {
        "hidden_size": 192, "mlp_dim": 768, "output_channels": width, "num_hidden_layers": 3, "num_attention_heads": 6,
        "image_size": PIXELS, "patch_size": PATCH, "window_size": 6, "global_attn_indexes": [0, 1, 2],
        "num_pos_feats": width // 2, "initializer_range": 0.02, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    }  # fmt: skip
    prompts = {"hidden_size": width, "image_size": PIXELS, "patch_size": PATCH}
    decoder = {"hidden_size": width, "mlp_dim": 2 * width, "num_attention_heads": 4, "iou_head_hidden_dim": width}
    model = SamModel(SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder))
    # transformers starts all matrices and tokens at 0.02, from which prompts are learnt late; SAM at PyTorch's own
    for module in model.modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d | torch.nn.ConvTranspose2d | torch.nn.Embedding):
            module.reset_parameters()
    places = model.shared_image_embedding.positional_embedding
    # SAM draws these frequencies from a standard normal and never trains them; in bf16, so that export changes nothing
    places.data = torch.randn(places.shape).bfloat16().float()
    places.requires_grad_(False)
    model.prompt_encoder.shared_embedding.positional_embedding = places
    return model


def start_from_clip(encoder, clip: dict[str, torch.Tensor], images: np.ndarray) -> None:
    """Gives SAM's encoder the weights of CLIP's first layers, patches and positions.

    SAM has no norm between embedding and layers: CLIP's is folded into the embedding, with the mean and deviation that
    its patches have on average over the images (UInt8[image side side 3]).
    """
    own = {k.removeprefix("vision_model."): v for k, v in clip.items() if k.startswith("vision_model.")}
    patch, place = own["embeddings.patch_embedding.weight"], own["embeddings.position_embedding.weight"][1:]
    embedded = torch.nn.functional.conv2d(normalised(images), patch, stride=PATCH).flatten(2).mT + place
    mean, scale = embedded.mean(), own["pre_layrnorm.weight"] / embedded.std(-1).mean()
    weights = {
        "patch_embed.projection.weight": patch * scale[:, None, None, None],
        "patch_embed.projection.bias": own["pre_layrnorm.bias"] - mean * scale,
        "pos_embed": (place * scale).view(1, PIXELS // PATCH, PIXELS // PATCH, -1),
    }
    for i in range(len(encoder.layers)):
        theirs, ours = f"encoder.layers.{i}.", f"layers.{i}."
        for kind in ("weight", "bias"):
            weights[f"{ours}attn.qkv.{kind}"] = torch.cat([own[f"{theirs}self_attn.{n}_proj.{kind}"] for n in "qkv"])
            for to, name in {
                "layer_norm1": "layer_norm1", "layer_norm2": "layer_norm2", "attn.proj": "self_attn.out_proj",
                "mlp.lin1": "mlp.fc1", "mlp.lin2": "mlp.fc2",
            }.items():  # fmt: skip
                weights[f"{ours}{to}.{kind}"] = own[f"{theirs}{name}.{kind}"]
    lost = encoder.load_state_dict(weights, strict=False)
    if lost.unexpected_keys:
        raise ValueError(f"SAM's encoder has no {lost.unexpected_keys[0]}")


def normalised(images: np.ndarray) -> torch.Tensor:
    """Float[image 3 side side] from UInt8[image side side 3], as the processor gives it."""
    return ((torch.from_numpy(images.astype(np.float32)) / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(
        0, 3, 1, 2
    )


def turned(image: np.ndarray, labels: np.ndarray, how: int) -> tuple[np.ndarray, np.ndarray]:
    """One of the eight ways to turn and mirror a square."""
    turn = lambda a: np.rot90(a[:, ::-1] if how & 4 else a, how & 3)  # noqa: E731
    return turn(image), turn(labels)


def box_of(inside: np.ndarray, rng: np.random.Generator) -> list[float]:
    """The object's box, each side moved by a tenth of its length (standard deviation), at most 4 pixels."""
    y, x = np.divmod(inside, SIDE)
    box = np.array([x.min(), y.min(), x.max() + 1, y.max() + 1], float)
    length = np.array([box[2] - box[0], box[3] - box[1]] * 2)
    return list((box + (rng.normal(0, 0.1, 4) * length).clip(-4, 4)).clip(0, SIDE))


def batch_of(images: np.ndarray, labels: np.ndarray, step: int) -> dict[str, torch.Tensor]:
    """Pixels [image 3 side side], points [image prompt 3 2], boxes [image prompt 4], targets: covered shares 0..1.

    Points and boxes are in the model's pixels, as the processor would have them.
    """
    rng = np.random.default_rng([step, 11])
    made = {"pixels": [], "points": [], "boxes": [], "targets": []}
    cell, scale = SIDE // CELLS, PIXELS / SIDE
    for which in rng.integers(len(images), size=BATCH):
        image, label = turned(images[which], labels[which], int(rng.integers(8)))
        present = np.flatnonzero(np.bincount(label.ravel(), minlength=2)[1:]) + 1
        chosen = np.concatenate([rng.permutation(present) for _ in range(PROMPTS)])[:PROMPTS]
        insides = [np.flatnonzero(label.ravel() == k) for k in chosen]
        points = [np.stack(np.divmod(rng.choice(inside, 3), SIDE)[::-1], 1) for inside in insides]
        made["pixels"].append(image)
        made["points"].append(np.stack(points) * scale)
        made["boxes"].append(np.array([box_of(inside, rng) for inside in insides]) * scale)
        shares = (label == chosen[:, None, None]).reshape(PROMPTS, CELLS, cell, CELLS, cell).mean((2, 4))
        made["targets"].append(shares)
    batch = {key: torch.from_numpy(np.stack(value)).float() for key, value in made.items()}
    batch["pixels"] = normalised(np.stack(made["pixels"]))
    return batch


def mask_losses(logits: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """20 focal + dice of every mask [image prompt mask], and its real IoU 0..1. The target is a share, 0..1.

    Focal loss with exponent 2 and alpha 0.25, written for shares: for 0 and 1 it is the usual one.
    """
    target = target[:, :, None].expand_as(logits)
    share = logits.sigmoid()
    crossed = torch.nn.functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    focal = ((0.25 * target + 0.75 * (1 - target)) * (share - target) ** 2 * crossed).mean((-2, -1))
    both = (share * target).sum((-2, -1))
    dice = 1 - (2 * both + 1) / (share.sum((-2, -1)) + target.sum((-2, -1)) + 1)
    with torch.no_grad():
        mask, truth = logits > 0, target >= 0.5
        iou = (mask & truth).sum((-2, -1)) / (mask | truth).sum((-2, -1)).clamp(min=1)
    return 20 * focal + dice, iou


def decoded(model, embedded, several: bool, **prompts):
    """Mask logits [image prompt mask side side] and predicted IoU in float32."""
    out = model(image_embeddings=embedded, multimask_output=several, **prompts)
    return out.pred_masks.float(), out.iou_scores.float()


def loss_of(model, batch: dict[str, torch.Tensor], step: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The loss of one step's kind of prompt, and what to log."""
    kind, several = KINDS[step % len(KINDS)]
    embedded = model.vision_encoder(batch["pixels"]).last_hidden_state
    points, target = batch["points"], batch["targets"]
    if kind == "box":
        prompts = {"input_boxes": batch["boxes"]}
    elif kind == "points":
        prompts = {"input_points": points}
    else:
        prompts = {"input_points": points[:, :, :1]}
    logits, predicted = decoded(model, embedded, several, **prompts)
    losses, iou = mask_losses(logits, target)
    least, best = losses.min(2)
    total = (least + EVERY_MASK * losses.mean(2)).mean() + (predicted - iou).square().mean()
    if kind == "refined":  # SAM's second round: the mask so far, and another point on the object or its box
        first = logits.detach().gather(2, best[:, :, None, None, None].expand(-1, -1, 1, *logits.shape[-2:]))
        more = {"input_points": points[:, :, :2].flatten(0, 1)[:, None]}
        if step // len(KINDS) % 2:
            more = {"input_boxes": batch["boxes"].flatten(0, 1)[:, None]}
        spread = embedded.repeat_interleave(PROMPTS, 0)
        again, promised = decoded(model, spread, False, input_masks=first.flatten(0, 1), **more)
        second, now = mask_losses(again, target.flatten(0, 1)[:, None])
        total = (total + second.mean() + (promised - now).square().mean()) / 2
    return total, {"kind": kind, "iou": round(iou.gather(2, best[:, :, None]).mean().item(), 3),
                   "last": round(iou[:, :, -1].mean().item(), 3)}  # fmt: skip


def fit(llava: Path, work: Path, log: Log, device: str, steps: int) -> None:
    """Trains the model; WORK/train.pt is there to go on from."""
    torch.manual_seed(0)
    model = sam()
    images, labels = (np.load(work / f"{name}.npy", mmap_mode="r") for name in ("images", "labels"))

    clip = torch.load(llava / "clip.pt", weights_only=True)["model"]
    start_from_clip(model.vision_encoder, clip, images[:64])
    model.to(device)
    model.set_attn_implementation("eager")  # for so few patches twice as fast on a CPU as torch's own

    def batches(step: int) -> dict[str, torch.Tensor]:
        return {"step": torch.tensor(step), **batch_of(images, labels, step)}

    def loss(batch):
        return loss_of(model, batch, int(batch.pop("step")))

    train("train", model, batches, loss, steps, RATE, 0.05, work, log, device, warm=200)


def export(work: Path, log: Log, out: Path) -> None:
    """OUT: the model in bf16 and its processor, as ``SamModel`` and ``SamProcessor`` load them."""
    from transformers import SamProcessor
    from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

    model = sam()
    model.load_state_dict(torch.load(work / "train.pt", weights_only=True)["model"])
    model.bfloat16().save_pretrained(out)
    square = {"height": PIXELS, "width": PIXELS}
    SamProcessor(
        SamImageProcessorPil(
            size={"longest_edge": PIXELS}, pad_size=square, image_mean=list(MEAN), image_std=list(STD),
            mask_size={"longest_edge": CELLS}, mask_pad_size={"height": CELLS, "width": CELLS},
        )
    ).save_pretrained(out)  # fmt: skip
    (out / "training.jsonl").write_text((work / "log.jsonl").read_text())
    size = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    log(part="export", megabytes=round(size / 1e6, 2), parameters=sum(p.numel() for p in model.parameters()))


@torch.no_grad()
def evaluate(log: Log, out: Path, samples: int = 300) -> None:
    """Logs median and mean IoU 0..1 from one random point inside each object's visible mask, on test scenes."""
    from transformers import SamModel, SamProcessor

    model, processor = SamModel.from_pretrained(out, dtype=torch.float32), SamProcessor.from_pretrained(out)
    rng, rows = np.random.default_rng(3), {"by_score": [], "last": [], "oracle": [], "box": []}
    for sample in scenes.load(samples=samples):
        masks = np.stack([target.mask for target in sample.targets])
        insides = [np.argwhere(mask) for mask in masks]
        points = [[inside[rng.integers(len(inside))][::-1].tolist()] for inside in insides]
        boxes = [[*i.min(0)[::-1].tolist(), *(i.max(0)[::-1] + 1).tolist()] for i in insides]
        inputs = processor(sample.image, input_points=[points], input_boxes=[boxes], return_tensors="pt")
        embedded = model.get_image_embeddings(inputs["pixel_values"])
        for name, several, prompt in (("points", True, "input_points"), ("box", False, "input_boxes")):
            got = model(image_embeddings=embedded, multimask_output=several, **{prompt: inputs[prompt].float()})
            (found,) = processor.post_process_masks(
                got.pred_masks, inputs["original_sizes"], inputs["reshaped_input_sizes"]
            )
            found = found.numpy()
            iou = (found & masks[:, None]).sum((2, 3)) / (found | masks[:, None]).sum((2, 3))
            if name == "box":
                rows["box"] += list(iou[:, 0])
            else:
                best = got.iou_scores[0].argmax(1).numpy()
                rows["by_score"] += list(iou[np.arange(len(iou)), best])
                rows["last"] += list(iou[:, -1])
                rows["oracle"] += list(iou.max(1))
    for name, values in rows.items():
        log(part="evaluate", mask=name, objects=len(values), median=round(float(np.median(values)), 4),
            mean=round(float(np.mean(values)), 4))  # fmt: skip


def main() -> None:
    """Every part that is not done, in order; or the one that is asked for."""
    parser = arguments(__doc__, "mini-sam")
    parser.add_argument("--llava", type=Path, default=Path("runs/train-mini-llava"), help="mini-llava's work folder")
    parser.add_argument("--steps", type=int, default=STEPS, help=f"of training (default: {STEPS})")
    a, log = parsed(parser)
    parts = {
        "scenes": lambda: (a.work / "labels.npy").exists() or render(a.work, log),
        "train": lambda: fit(a.llava, a.work, log, a.device, a.steps),
        "export": lambda: export(a.work, log, a.out),
        "evaluate": lambda: evaluate(log, a.out),
    }
    run(parser, a.part, parts)


if __name__ == "__main__":
    main()
