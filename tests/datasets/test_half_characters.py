"""Half a character (a lone surrogate) in an annotation costs its entry, with the reason, and crashes no page later."""

from __future__ import annotations

import json
import pickle

import pytest

from interp.datasets import coco, scenes
from interp.datasets._annotations import EntryLeftOut
from interp.datasets._files import DatasetError

HALF = "dog \ud800"


@pytest.fixture
def root(tmp_path):
    coco.write([scenes.sample("test", i, size=48) for i in range(2)], tmp_path, "val2017")
    return tmp_path


def change(path, how):
    found = json.loads(path.read_text())
    how(found)
    path.write_text(json.dumps(found))


def test_a_category_with_half_a_character_costs_its_annotations_alone(root):
    path = root / "annotations" / "instances_val2017.json"
    whole = [sample for sample in coco.load(root)]
    change(path, lambda found: found["categories"][0].update(name=HALF))
    with pytest.warns(EntryLeftOut, match="half a character"):
        found = [sample for sample in coco.load(root)]
    gone = whole[0].targets[0].phrase
    assert [t.phrase for t in found[0].targets] == [t.phrase for t in whole[0].targets if t.phrase != gone]


@pytest.mark.parametrize("file", ["instances", "captions"])
def test_coco_files_with_nothing_but_half_characters_are_refused(root, file):
    name, kind = {"instances": ("name", "categories"), "captions": ("caption", "annotations")}[file]
    change(
        root / "annotations" / f"{file}_val2017.json",
        lambda found: [entry.update({name: HALF}) for entry in found[kind]],
    )
    with pytest.raises(DatasetError, match="half a character"):
        [*coco.load(root)]


@pytest.mark.parametrize("half", ["first", "all"])
def test_an_expression_with_half_a_character_costs_itself(tmp_path, half):
    from interp.datasets import refcoco

    images = [{"id": 1, "file_name": "a.jpg"}]
    box = {"id": 5, "image_id": 1, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]}
    said = [{"sent": text, "sent_id": i} for i, text in enumerate([HALF, HALF if half == "all" else "a dog"])]
    refs = [{"ref_id": 0, "ann_id": 5, "image_id": 1, "split": "val", "sentences": said}]
    (tmp_path / "instances.json").write_text(json.dumps({"images": images, "annotations": [box]}))
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps(refs, 2))
    if half == "all":
        with pytest.raises(DatasetError, match=r"no expression of split 'val' can be used.*half a character"):
            refcoco.load(tmp_path)
    else:
        with pytest.warns(EntryLeftOut, match="half a character"):
            assert len(refcoco.load(tmp_path).refs) == 1


@pytest.mark.parametrize("file", ["instances", "captions"])
def test_a_folder_in_place_of_a_coco_file_is_not_taken_for_one_that_is_missing(root, file):
    path = root / "annotations" / f"{file}_val2017.json"
    path.unlink()
    path.mkdir()
    with pytest.raises(DatasetError, match="is no regular file"):
        coco.load(root)
