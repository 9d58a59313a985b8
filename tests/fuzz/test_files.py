"""Whatever lies on a disk: a bad entry costs itself, a bad file is refused with a reason; nothing else is raised."""

import copy
import io
import json
import tempfile
import warnings
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from interp.datasets import coco, gcg, refcoco
from interp.datasets._annotations import EntryLeftOut
from interp.datasets._coco_masks import CocoError
from interp.images import ImageError, read_image
from interp.types import Sample, Skip

SIZE = (12, 16)
NUMBERS = st.sampled_from([0, 1, -1, 2**40, 1.5, float("nan"), float("inf"), -0.0, True])
TEXTS = st.sampled_from(["", "0", "big", "../a.png", "\x00", "a.png", "0:n0", "\ud800"])
LEAVES = NUMBERS | TEXTS | st.none()
VALUES = st.recursive(
    LEAVES, lambda some: st.lists(some, max_size=3) | st.dictionaries(TEXTS, some, max_size=2), max_leaves=5
)
DOG, CAT = (np.zeros(SIZE, bool) for _ in range(2))
DOG[2:6, 3:9] = CAT[7:11, 1:8] = True


def lengths(mask):
    flat = mask.T.ravel()
    runs = np.diff(np.r_[0, np.flatnonzero(np.diff(flat)) + 1, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


IMAGES = [{"id": i, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]} for i in (1, 2)]
THINGS = [
    {"id": 2 * i + k, "image_id": i, "category_id": k, "segmentation": lengths(m), "area": 9, "iscrowd": 0}
    | {"bbox": [1, 2, 3, 4]}
    for i in (1, 2)
    for k, m in ((1, DOG), (2, CAT))
]
KINDS = [{"id": 1, "name": "dog"}, {"id": 2, "name": "cat"}]
INSTANCES = {"images": IMAGES, "annotations": THINGS, "categories": KINDS}
CAPTIONS = {
    "images": [{"id": i, "file_name": "a.png"} for i in (1, 2)],
    "annotations": [{"image_id": i, "caption": "A dog and a cat.", "labels": ["A dog", "a cat"]} for i in (1, 2)],
}
REFS = [
    {"ref_id": a["id"], "ann_id": a["id"], "image_id": a["image_id"], "split": "val"}
    | {"sentences": [{"sent": "it", "sent_id": a["id"]}]}
    for a in THINGS
]


def places(document, path=()):
    """Every place in a document, as keys from its top."""
    yield path
    for key, value in document.items() if isinstance(document, dict) else enumerate(document):
        if isinstance(value, dict | list):
            yield from places(value, (*path, key))
        else:
            yield (*path, key)


def damaged(document, path, value):
    if not path:
        return value
    changed = copy.deepcopy(document)
    at = changed
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value
    return changed


def read(load, files):
    """What the reader gives of these files and an image, or None if it refuses them with a reason."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", EntryLeftOut)
        root = Path(folder)
        Image.fromarray(np.zeros((*SIZE, 3), np.uint8)).save(root / "a.png")
        for name, document in files.items():
            (root / name).parent.mkdir(exist_ok=True)
            (root / name).write_text(json.dumps(document))
        try:
            found = list(load(root))
        except CocoError as error:
            assert len(str(error)) > 20
            return None
    for one in found:
        assert (isinstance(one, Sample | Skip) and isinstance(one, Sample)) or one.reason
        for target in getattr(one, "targets", ()):
            assert target.mask.shape == SIZE and target.phrase.strip()
    return found


def in_order(found):
    return {s.id: [(t.phrase, t.mask.tobytes()) for t in s.targets] for s in found or () if isinstance(s, Sample)}


@given(st.sampled_from(sorted(places(INSTANCES), key=repr)), VALUES)
def test_coco_one_damage_costs_nothing_beside_itself(path, value):
    found = in_order(read(coco.load, {"annotations/instances_val2017.json": damaged(INSTANCES, path, value)}))
    if path[:1] == ("annotations",) and len(path) > 1:
        hit = THINGS[path[1]]
        whole = [("dog", DOG.tobytes()), ("cat", CAT.tobytes())]
        assert found[str(3 - hit["image_id"])][:2] == whole  # the other image
        assert whole[2 - hit["category_id"]] in found[str(hit["image_id"])]  # the other thing of the same image


@given(
    st.sampled_from(sorted(places(CAPTIONS), key=repr)),
    st.sampled_from(sorted(places(INSTANCES), key=repr)),
    VALUES,
    st.booleans(),
)
def test_gcg_one_damage_costs_no_other_image(told, shown, value, first):  # fmt: skip
    files = {
        "val_gcg_coco_caption_gt.json": damaged(CAPTIONS, told, value) if first else CAPTIONS,
        "val_gcg_coco_mask_gt.json": INSTANCES if first else damaged(INSTANCES, shown, value),
    }
    found = in_order(read(gcg.load, files))
    path = told if first else shown
    if path[:1] == ("annotations",) and len(path) > 1:
        hit = (CAPTIONS if first else INSTANCES)["annotations"][path[1]]["image_id"]
        assert [name for name, _ in found[str(3 - hit)]][:2] == ["A dog", "a cat"] or path[-1] == "image_id"


@given(st.sampled_from(sorted(places(REFS), key=repr)), VALUES)
def test_refcoco_one_damage_costs_no_other_expression(path, value):
    found = in_order(read(refcoco.load, {"instances.json": INSTANCES, "refs(unc).json": damaged(REFS, path, value)}))
    if path:
        assert {f"{a['id']}-{a['id']}" for i, a in enumerate(THINGS) if i != path[0]} <= set(found)


@given(
    st.dictionaries(st.integers(0, 400), st.integers(0, 255), max_size=8),
    st.integers(0, 400),
    st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"]),
)
def test_a_damaged_image_is_read_or_refused_with_a_reason(changes, cut, kind):  # fmt: skip
    buffer = io.BytesIO()
    Image.fromarray(np.arange(12 * 16 * 3, dtype=np.uint8).reshape(12, 16, 3)).save(buffer, format=kind)
    data = bytearray(buffer.getvalue())
    for place, byte in changes.items():
        data[place % len(data)] = byte
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "a"
        path.write_bytes(bytes(data[: len(data) - cut // 4 if cut % 3 else None]))
        for upright in (True, False):
            try:
                found = read_image(path, upright=upright)
                assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3 and found.size
            except ImageError as error:
                assert str(path) in str(error)


@given(
    st.sampled_from(["uint8", "uint16", "int32", "float32", "bool", "complex64", "object"]),
    st.lists(st.integers(0, 5), max_size=5),
    NUMBERS,
)
def test_any_array_is_an_image_or_refused_with_a_reason(kind, shape, value):  # fmt: skip
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            array = np.full(shape, value).astype(kind)
        except (ValueError, OverflowError):
            return
        try:
            assert read_image(array).shape[2] == 3
        except ImageError as error:
            assert len(str(error)) > 20
