"""A model's processor: loaded for images alone, and with options of its image processor."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from transformers import AutoProcessor, ProcessorMixin

from interp.models._pixtral import processor_class

VIDEO = "video_processor"
_ATTRIBUTES: Any = ProcessorMixin.get_attributes.__func__  # type: ignore[attr-defined]


def load_processor(checkpoint: str, kind: Any = AutoProcessor, **hub: Any) -> Any:
    """The checkpoint's processor without its video parts: those need torchvision, and no image does."""
    processor_class()  # makes it known
    every = vars(ProcessorMixin)["get_attributes"]
    ProcessorMixin.get_attributes = classmethod(_stills)  # type: ignore[assignment]
    try:
        processor = kind.from_pretrained(checkpoint, **hub)
    finally:
        ProcessorMixin.get_attributes = every
    if isinstance(processor, ProcessorMixin):
        processor.__class__ = stills(type(processor))
    return processor


def stills(kind: Any) -> Any:
    """The processor's class, as one that has no video parts: it can be made, saved and printed without them."""
    if VIDEO not in kind.get_attributes():
        return kind
    return type(kind.__name__, (kind,), {"get_attributes": classmethod(_stills), "__module__": kind.__module__})


def _stills(kind: Any) -> list[str]:
    """The parts of a processor of this class that images and text need."""
    return [name for name in _ATTRIBUTES(kind) if name != VIDEO]


def with_options(processor: Any, options: Mapping[str, Any]) -> Any:
    """The processor, or with options a copy whose image processor has them.

    Raises:
        ValueError: an option that the image processor does not know.
    """
    if not options:
        return processor
    images = processor.image_processor
    known = sorted(getattr(getattr(images, "valid_kwargs", None), "__annotations__", {}))
    if wrong := sorted(options.keys() - set(known)):
        raise ValueError(
            f"{type(images).__name__} has no option {', '.join(map(repr, wrong))}; it has: {', '.join(known) or 'none'}"
        )
    processor = copy.copy(processor)
    processor.image_processor = type(images).from_dict({**images.to_dict(), **options})
    return processor
