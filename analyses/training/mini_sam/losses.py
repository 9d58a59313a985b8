"""SAM's losses (arXiv 2304.02643, appendix A), for the kind of prompt that a step has."""

from __future__ import annotations

import torch

from training.mini_sam.scenes import PROMPTS

KINDS = (
    ("point", True), ("point", True), ("box", True), ("point", True),
    ("points", False), ("refined", True), ("points", True), ("box", False),
)  # fmt: skip
"""Of step 0, 1, ...: what prompts, and whether for three masks or for the one of unambiguous prompts."""
EVERY_MASK = 0.5  # weight of the mean over the three masks beside their least


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
