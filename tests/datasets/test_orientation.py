"""Photographs turned by EXIF: in every reader a mask lies on its thing, as with plain PIL and pycocotools."""

import json

import numpy as np
import pytest
from PIL import Image, ImageOps

from interp.datasets import coco, gcg, narratives, refcoco

HEIGHT, WIDTH = 40, 60
THING = np.zeros((HEIGHT, WIDTH), bool)
THING[5:15, 5:20] = True
POLYGON = [[5, 5, 20, 5, 20, 15, 5, 15]]


def photograph(path, orientation, thing=THING):
    """A red thing on black, stored as it is drawn, with an orientation beside it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    exif[0x112] = orientation
    pixels = np.where(thing[..., None], np.array([255, 0, 0], np.uint8), np.uint8(0))
    Image.fromarray(pixels).save(path, format="JPEG", exif=exif, quality=95)


def dump(document, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def lengths(mask):
    from pycocotools import mask as tools

    found = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def as_coco(root, orientation, size, mask):
    photograph(root / "val2017" / "a.jpg", orientation)
    found = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": mask}
    image = {"id": 1, "file_name": "a.jpg", **size}
    about = {"images": [image], "annotations": [found], "categories": [{"id": 1, "name": "dog"}]}
    dump(about, root / "annotations" / "instances_val2017.json")
    return coco.load(root)


def as_refcoco(root, orientation, size, mask):
    photograph(root / "images" / "a.jpg", orientation)
    found = {"id": 1, "image_id": 1, "category_id": 1, "segmentation": mask}
    dump({"images": [{"id": 1, "file_name": "a.jpg", **size}], "annotations": [found]}, root / "instances.json")
    ref = {"ref_id": 1, "ann_id": 1, "image_id": 1, "split": "val", "sentences": [{"sent": "a dog"}]}
    dump([ref], root / "refs(unc).json")
    return refcoco.load(root)


def as_gcg(root, orientation, size, mask):
    photograph(root / "images" / "a.jpg", orientation)
    told = {"image_id": "a", "caption": "A dog.", "labels": ["A dog"]}
    dump({"images": [{"id": "a"}], "annotations": [told]}, root / "val_gcg_coco_caption_gt.json")
    shown = {"image_id": "a", "segmentation": mask}
    dump({"images": [{"id": "a", **size}], "annotations": [shown]}, root / "val_gcg_coco_mask_gt.json")
    return gcg.load(root)


def as_narrative(root, orientation, size, mask):
    photograph(root / "val2017" / "a.jpg", orientation)
    drawn = THING if isinstance(mask, list) or mask["size"] == [HEIGHT, WIDTH] else turned(orientation)
    (root / "panoptic_val2017").mkdir()
    Image.fromarray(np.where(drawn[..., None], np.array([9, 0, 0], np.uint8), np.uint8(0))).save(
        root / "panoptic_val2017" / "a.png"
    )
    found = {"image_id": 1, "file_name": "a.png", "segments_info": [{"id": 9, "category_id": 1}]}
    about = {"images": [{"id": 1, "file_name": "a.jpg", **size}], "annotations": [found]}
    dump({**about, "categories": [{"id": 1, "isthing": 1}]}, root / "panoptic_val2017.json")
    part = {"utterance": "a dog", "segment_ids": ["9"]}
    dump([{"image_id": "1", "segments": [part]}], root / "png_coco_val2017.json")
    return narratives.load(root)


def turned(orientation):
    """The thing's mask once the image stands upright."""
    exif = Image.Exif()
    exif[0x112] = orientation
    image = Image.fromarray(THING)
    image.getexif()[0x112] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


READERS = [as_coco, as_refcoco, as_gcg, as_narrative]
SAID = {"height": HEIGHT, "width": WIDTH}


def check(samples, stored=True, orientation=1):
    (sample,) = samples
    mask, red = sample.targets[0].mask, sample.image[..., 0] > 128
    assert (mask == (THING if stored else turned(orientation))).all() and (red == mask).mean() > 0.99


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mask_lies_on_its_thing_however_the_photograph_was_held(tmp_path, reader, orientation):
    check(reader(tmp_path, orientation, SAID, POLYGON))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 6, 8])
def test_where_no_size_is_said_masks_and_pixels_are_in_the_stored_frame(tmp_path, reader, orientation):
    check(reader(tmp_path, orientation, {}, POLYGON))


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
@pytest.mark.parametrize("said", [{"height": WIDTH, "width": HEIGHT}, {}])
def test_masks_drawn_on_the_upright_photograph_lie_on_their_thing(tmp_path, reader, orientation, said):
    check(reader(tmp_path, orientation, said, lengths(turned(orientation))), stored=False, orientation=orientation)


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pixels_and_masks_are_those_of_plain_pil_and_pycocotools(tmp_path, orientation):
    from pycocotools.coco import COCO

    (sample,) = as_coco(tmp_path, orientation, SAID, lengths(THING))
    theirs = COCO(tmp_path / "annotations" / "instances_val2017.json")
    assert (sample.targets[0].mask == theirs.annToMask(theirs.anns[1])).all()
    with Image.open(tmp_path / "val2017" / "a.jpg") as image:
        assert (sample.image == np.asarray(image.convert("RGB"))).all()
