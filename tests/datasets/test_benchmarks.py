"""Benchmarks as their files lie on disk, made from scenes: what is read is what was there; nothing broken passes."""

import json
import os
import pickle

import numpy as np
import pytest
from PIL import Image

from interp.datasets import coco, folder, gcg, narratives, refcoco, scenes
from interp.datasets._annotations import EntryLeftOut
from interp.datasets._coco_masks import CocoError
from interp.datasets._files import DatasetError
from interp.images import read_image
from interp.types import Sample, Skip


@pytest.fixture(scope="module")
def some_scenes():
    return [scenes.sample("test", i, size=48) for i in range(3)]


def compressed(mask):
    from pycocotools import mask as tools

    found = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, format="PNG")  # whatever its name: pixels must survive


def dump(document, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def same(found, scene, phrases=None):
    assert isinstance(found, Sample), found
    assert (found.image == scene.image).all()
    assert [t.phrase for t in found.targets] == (phrases or [t.phrase for t in scene.targets])
    assert all((a.mask == b.mask).all() for a, b in zip(found.targets, scene.targets, strict=True))


# --- GranD-f GCG -----------------------------------------------------------------------------------------------------


@pytest.fixture
def grand(tmp_path, some_scenes):
    """Writes GranD-f's two files and images; ``change(caption_file, mask_file)`` damages them."""

    def make(change=lambda told, shown: None):
        told = {"images": [], "annotations": []}
        shown = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
        for i, scene in enumerate(some_scenes):
            key = f"sa_{i}"
            save(scene.image, tmp_path / "GranDf_HA_images" / "val_test" / f"{key}.jpg")
            size = {"height": scene.image.shape[0], "width": scene.image.shape[1]}
            told["images"].append({"id": key})
            shown["images"].append({"id": key, "file_name": f"{key}.jpg", **size})
            labels = [t.phrase for t in scene.targets]
            told["annotations"].append({"id": i, "image_id": key, "caption": scene.answer, "labels": labels})
            for t in scene.targets:
                n = len(shown["annotations"]) + 1
                found = {"id": n, "image_id": key, "category_id": 1, "iscrowd": 0, "area": int(t.mask.sum())}
                shown["annotations"].append({**found, "segmentation": compressed(t.mask)})
        change(told, shown)
        home = tmp_path / "annotations" / "val_test"
        dump(told, home / "val_gcg_coco_caption_gt.json")
        dump(shown, home / "val_gcg_coco_mask_gt.json")
        return tmp_path

    return make


def test_gcg_gives_captions_with_the_masks_of_their_phrases(grand, some_scenes):
    found = gcg.load(grand())
    assert len(found) == 3 and [s.id for s in found] == ["sa_0", "sa_1", "sa_2"]
    for sample, scene in zip(found, some_scenes, strict=True):
        same(sample, scene)
        assert sample.answer == scene.answer and sample.captions == (scene.answer,)
    assert [s.id for s in gcg.load(grand(), samples=2)] == ["sa_0", "sa_1"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda told, shown: shown["annotations"][0]["segmentation"].update(counts=[5, 5]), "run lengths of mask 0"),
        (lambda told, shown: shown["annotations"][0].update(segmentation=None), "its segmentation is None"),
        (lambda told, shown: shown["annotations"][0].pop("segmentation"), "its segmentation is None"),
        (lambda told, shown: shown["annotations"][0].update(segmentation=[[1, 2]]), "polygons of mask 0"),
        (lambda told, shown: told["annotations"][0]["labels"].__setitem__(0, None), "its phrase is None"),
        (lambda told, shown: told["annotations"][0]["labels"].__setitem__(0, ["a dog"]), r"its phrase is \['a dog'\]"),
        (lambda told, shown: told["annotations"][0]["labels"].__setitem__(0, " "), "its phrase is ' '"),
    ],
)
def test_gcg_a_phrase_or_mask_that_cannot_be_used_costs_the_pair_alone(grand, some_scenes, change, message):
    data = gcg.load(grand(change))
    with pytest.warns(EntryLeftOut, match=message):
        first, *rest = data
    assert [t.phrase for t in first.targets] == [t.phrase for t in some_scenes[0].targets][1:]
    assert all((a.mask == b.mask).all() for a, b in zip(first.targets, some_scenes[0].targets[1:], strict=True))
    assert [len(s.targets) for s in rest] == [len(s.targets) for s in some_scenes[1:]]


def test_gcg_skips_the_image_that_cannot_be_used_and_goes_on(grand):
    def one_label_too_many(told, shown):
        told["annotations"][0]["labels"].append("nothing")

    first, *rest = gcg.load(grand(one_label_too_many))
    assert isinstance(first, Skip) and "phrases but" in first.reason and first.sample_id == "sa_0"
    assert all(isinstance(s, Sample) for s in rest)
    home = grand()
    (home / "GranDf_HA_images" / "val_test" / "sa_1.jpg").write_bytes(b"no image")
    (home / "GranDf_HA_images" / "val_test" / "sa_2.jpg").unlink()
    found = list(gcg.load(home))
    assert [type(s).__name__ for s in found] == ["GroundedSample", "Skip", "Skip"] and "no file" in found[2].reason


@pytest.mark.parametrize(
    ("change", "word", "left"),
    [
        (lambda told, shown: shown["annotations"][0].update(image_id="sa_9"), "'sa_9' is not in images", [1, 2]),
        (lambda told, shown: told["annotations"][0].update(image_id="sa_9"), "'sa_9' is not in images", [1, 2]),
        (lambda told, shown: shown["images"][0].update(file_name="../x.png"), "leads out of the folder", [1, 2]),
        (lambda told, shown: told["images"][0].update(file_name="C:\\x.png"), "leads out of the folder", [1, 2]),
        (lambda told, shown: told["annotations"][0].pop("labels"), "no usable 'labels'", [1, 2]),
        (lambda told, shown: told["annotations"][0].update(labels=None), "no usable 'labels'", [1, 2]),
        (lambda told, shown: told["annotations"][0].update(caption=7), "no usable 'caption'", [1, 2]),
    ],
)
def test_gcg_a_bad_entry_costs_no_other_image(grand, change, word, left):
    with pytest.warns(EntryLeftOut, match=word):
        data = gcg.load(grand(change))
    assert [s.id for s in data if isinstance(s, Sample)] == [f"sa_{i}" for i in left]


def test_gcg_files_without_their_lists_are_refused(grand):
    with pytest.raises(DatasetError, match="no list 'annotations'"):
        gcg.load(grand(lambda told, shown: shown.pop("annotations")))


def test_gcg_says_where_it_looked(tmp_path):
    with pytest.raises(DatasetError, match="test_gcg_coco_caption_gt"):
        gcg.load(tmp_path, "test")
    with pytest.raises(DatasetError, match="no folder given"):
        gcg.load()


# --- RefCOCO -----------------------------------------------------------------------------------------------------


@pytest.fixture
def refer(tmp_path, some_scenes):
    """Writes refs(BY).p (or .json) and instances.json, with two expressions for every object."""

    def make(change=lambda refs, instances: None, by="unc", suffix=".p", protocol=2):
        home = tmp_path / "refcoco"
        instances = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "thing"}]}
        refs, sentences = [], 0
        for i, scene in enumerate(some_scenes):
            name = f"COCO_train2014_{i:012d}.jpg"
            save(scene.image, tmp_path / "images" / "mscoco" / "images" / "train2014" / name)
            size = {"height": scene.image.shape[0], "width": scene.image.shape[1]}
            instances["images"].append({"id": i, "file_name": name, **size})
            for t in scene.targets:
                n = len(instances["annotations"]) + 500
                rows, cols = np.nonzero(t.mask)
                box = [int(cols.min()), int(rows.min()), int(np.ptp(cols)) + 1, int(np.ptp(rows)) + 1]
                found = {"id": n, "image_id": i, "category_id": 1, "bbox": box, "segmentation": compressed(t.mask)}
                instances["annotations"].append(found)
                said = []
                for words in (f"the {t.phrase}", f"{t.phrase} here"):
                    said.append({"sent_id": sentences, "sent": words, "raw": words, "tokens": words.split()})
                    sentences += 1
                ref = {"ref_id": n - 500, "ann_id": n, "image_id": i, "category_id": 1, "sentences": said}
                refs.append({**ref, "split": ("val", "testA", "testB")[i], "file_name": name})
        change(refs, instances)
        home.mkdir(parents=True, exist_ok=True)
        path = home / f"refs({by}){suffix}"
        path.write_text(json.dumps(refs)) if suffix == ".json" else path.write_bytes(pickle.dumps(refs, protocol))
        dump(instances, home / "instances.json")
        return home

    return make


@pytest.mark.parametrize(("suffix", "protocol"), [(".p", 0), (".p", 2), (".p", 4), (".json", 0)])
def test_refcoco_gives_a_sample_per_expression(refer, some_scenes, suffix, protocol):
    found = list(refcoco.load(refer(suffix=suffix, protocol=protocol), "val"))
    scene = some_scenes[0]
    assert [s.answer for s in found] == [w for t in scene.targets for w in (f"the {t.phrase}", f"{t.phrase} here")]
    for i, sample in enumerate(found):
        (target,) = sample.targets
        assert (sample.image == scene.image).all() and (target.mask == scene.targets[i // 2].mask).all()
        rows, cols = np.nonzero(target.mask)
        assert target.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
        assert sample.image_id == "0" and sample.id == f"{i // 2}-{i}"


def test_refcoco_splits_are_those_of_the_published_interface(refer, some_scenes):
    home = refer()
    per_image = [2 * len(s.targets) for s in some_scenes]
    assert [len(refcoco.load(home, s)) for s in ("val", "testA", "testB")] == per_image
    assert len(refcoco.load(home, "test")) == per_image[1] + per_image[2] and len(refcoco.load(home, "test", 3)) == 3
    with pytest.raises(DatasetError, match="no expressions of split 'nosuch'; the splits there are: testA, testB, val"):
        refcoco.load(home, "nosuch")


def test_of_several_authors_one_must_be_named(refer):
    home = refer(by="umd")
    refer(by="google")
    with pytest.raises(DatasetError, match=r"refs by google, umd; say whose.*google:val"):
        refcoco.load(home, "val")
    assert len(refcoco.load(home, "umd:val"))
    with pytest.raises(DatasetError, match="no refs\\(unc\\)"):
        refcoco.load(home, "unc:val")


class Evil:
    def __reduce__(self):
        return os.system, ("echo attacked > attacked.txt",)


@pytest.mark.parametrize("thing", [Evil(), np.float64(3.0), print, [{"a": Evil()}]])
def test_a_pickle_that_could_run_code_is_refused_and_does_not_run(refer, thing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    home = refer()
    (home / "refs(unc).p").write_bytes(pickle.dumps([thing]))
    with pytest.raises(refcoco.UnsafePickle, match="only plain lists, dicts"):
        refcoco.load(home, "val")
    assert not (tmp_path / "attacked.txt").exists()


def test_plain_pickles_are_read_whatever_python_wrote_them():
    value = [{"a": (1, 2.5, None, True, "é"), "b": {1, 2}, "c": frozenset({"x"})}]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert refcoco.read_pickle(pickle.dumps(value, protocol), "x") == value
    assert refcoco.read_pickle(b"(lp0\n(dp1\nS'sent'\np2\nVa dog\np3\nsa.", "python 2") == [{"sent": "a dog"}]
    for damaged in (b"", b"\x80\x02]q", b"garbage"):
        with pytest.raises(DatasetError, match="no pickle that can be read"):
            refcoco.read_pickle(damaged, "x")


@pytest.mark.parametrize(
    ("change", "word", "lost"),
    [
        (lambda refs, instances: refs[0].update(ann_id=9), "its ann_id 9 is not in annotations", 2),
        (lambda refs, instances: refs[0].update(image_id=77), "its image_id 77 is not in images", 2),
        (lambda refs, instances: refs[0].update(image_id=1), "is about image 1, its annotation is not", 2),
        (lambda refs, instances: instances["annotations"][0].update(image_id=77), "image_id 77 is not in images", 2),
        (lambda refs, instances: refs[0]["sentences"][0].pop("sent"), "no usable 'sent'", 1),
        (lambda refs, instances: refs[0]["sentences"][0].update(sent=None), "no usable 'sent'", 1),
        (lambda refs, instances: refs[0].update(sentences=None), "no usable 'sentences'", 2),
        (lambda refs, instances: instances["annotations"][0].update(bbox=[1, 2, -3, 4]), "no usable 'bbox'", 2),
        (lambda refs, instances: instances["annotations"][0].update(bbox=[1, float("nan"), 3, 4]), "'bbox'.*finite", 2),
        (lambda refs, instances: instances["annotations"][0].update(bbox=["left", 2, 3, 4]), "no usable 'bbox'", 2),
        (lambda refs, instances: instances["annotations"][0].update(bbox=[1, 2, 3]), "no usable 'bbox'", 2),
    ],
)
def test_refcoco_a_bad_entry_costs_its_own_expressions_alone(refer, change, word, lost):
    whole = [s.id for s in refcoco.load(refer(), "val")]
    with pytest.warns(EntryLeftOut, match=word):
        data = refcoco.load(refer(change), "val")
    assert [s.id for s in data if isinstance(s, Sample)] == whole[lost:]


def test_refcoco_reads_no_file_outside_its_folders(refer):
    home = refer(lambda refs, instances: instances["images"][0].update(file_name="/etc/passwd"))
    with pytest.raises(DatasetError, match="no expressions of split 'val'"):
        refcoco.load(home, "val")
    with pytest.warns(EntryLeftOut, match="leads out of the folder"):
        assert all(isinstance(s, Sample) for s in refcoco.load(home, "testA"))


def test_refcoco_skips_masks_of_another_size(refer):
    def wrong(refs, instances):
        instances["annotations"][0]["segmentation"] = {"size": [48, 48], "counts": [7]}

    first, second, *rest = refcoco.load(refer(wrong), "val")
    assert isinstance(first, Skip) and isinstance(second, Skip) and "run lengths" in first.reason
    assert rest and all(isinstance(s, Sample) for s in rest)


# --- narratives --------------------------------------------------------------------------------------------------


@pytest.fixture
def narrative(tmp_path, some_scenes):
    def make(change=lambda told, panoptic: None):
        panoptic = {"images": [], "annotations": [], "categories": []}
        panoptic["categories"] = [{"id": 1, "name": "dog", "isthing": 1}, {"id": 2, "name": "sky", "isthing": 0}]
        told = []
        for i, scene in enumerate(some_scenes):
            colours = np.zeros_like(scene.image)
            info, said = [], [{"utterance": "In this image", "segment_ids": [], "plural": False, "noun": False}]
            for j, t in enumerate(scene.targets):
                key = 70000 * (i + 1) + 300 * j
                colours[t.mask] = key % 256, key // 256 % 256, key // 65536
                info.append({"id": key, "category_id": 1 + j % 2})
                said.append({"utterance": f"a {t.phrase}", "segment_ids": [str(key)], "plural": j == 0, "noun": True})
            both = [str(segment["id"]) for segment in info]
            said += [
                {"utterance": ",", "segment_ids": [], "plural": False, "noun": False},
                {"utterance": "all of them", "segment_ids": both, "plural": True, "noun": True},
            ]
            panoptic["images"].append({"id": i, "file_name": f"{i}.jpg", "height": 48, "width": 48})
            panoptic["annotations"].append({"image_id": i, "file_name": f"{i}.png", "segments_info": info})
            told.append({"image_id": str(i), "segments": said})
            save(scene.image, tmp_path / "val2017" / f"{i}.jpg")
            save(colours, tmp_path / "annotations" / "panoptic_val2017" / f"{i}.png")
        change(told, panoptic)
        dump(told, tmp_path / "annotations" / "png_coco_val2017.json")
        dump(panoptic, tmp_path / "annotations" / "panoptic_val2017.json")
        return tmp_path

    return make


def test_narratives_give_every_phrase_its_segments_and_its_place(narrative, some_scenes):
    for sample, scene in zip(narratives.load(narrative()), some_scenes, strict=True):
        *single, everything = sample.targets
        assert [t.phrase for t in single] == [f"a {t.phrase}" for t in scene.targets]
        assert all((a.mask == b.mask).all() for a, b in zip(single, scene.targets, strict=True))
        assert (everything.mask == np.any([t.mask for t in scene.targets], 0)).all() and everything.thing
        assert all(sample.answer[slice(*t.span)] == t.phrase for t in sample.targets)
        assert [t.thing for t in single] == [j % 2 == 0 for j in range(len(single))] and single[0].plural
        assert sample.answer.startswith("In this image a ") and ", all of them" in sample.answer


@pytest.mark.parametrize(
    ("change", "word", "ids"),
    [
        (lambda told, pan: told[0].update(image_id="9"), "image_id '9' is not in images", ["1-1", "2-2"]),
        (lambda told, pan: told[0].update(segments=None), "no usable 'segments'", ["1-1", "2-2"]),
        (lambda told, pan: pan["annotations"][0].update(file_name="../x.png"), "leads out", ["1-1", "2-2"]),
    ],
)
def test_a_bad_narrative_costs_itself(narrative, change, word, ids):
    with pytest.warns(EntryLeftOut, match=word):
        data = narratives.load(narrative(change))
    assert [s.id for s in data] == ids and all(isinstance(s, Sample) for s in data)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda told, pan: told[0]["segments"][1].update(segment_ids=["5"]), "no segment 5 is known"),
        (lambda told, pan: told[0]["segments"][1].update(segment_ids=["x"]), "no usable 'segment_ids'"),
        (lambda told, pan: told[0]["segments"][1].update(segment_ids=None), "no usable 'segment_ids'"),
        (lambda told, pan: told[0]["segments"][1].update(plural="perhaps"), "no usable 'plural'"),
    ],
)
def test_a_phrase_whose_segments_cannot_be_used_costs_its_mask_and_the_text_stays(narrative, change, word):
    whole = next(iter(narratives.load(narrative())))
    with pytest.warns(EntryLeftOut, match=word):
        first = next(iter(narratives.load(narrative(change))))
    assert first.answer == whole.answer
    assert [(t.phrase, t.span) for t in first.targets] == [(t.phrase, t.span) for t in whole.targets[1:]]


# --- a folder, and COCO's instances --------------------------------------------------------------------------------


def test_a_folder_gives_its_images_in_the_order_of_their_names(tmp_path, some_scenes):
    for name, scene in zip(("b.png", "a.jpg", "c.JPEG"), some_scenes, strict=True):
        save(scene.image, tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG")
    (tmp_path / "notes.txt").write_text("no image")
    found = list(folder.load(tmp_path))
    assert [getattr(s, "id", None) or s.sample_id for s in found] == ["a.jpg", "b.png", "broken.png", "c.JPEG"]
    assert isinstance(found[2], Skip) and (found[1].image == read_image(tmp_path / "b.png")).all()
    assert len(folder.load(tmp_path, samples=1)) == 1


def test_folders_that_are_none_or_lead_out_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="has no images"):
        folder.load(tmp_path)
    with pytest.raises(DatasetError, match="is no folder"):
        folder.load(tmp_path / "nosuch")
    with pytest.raises(DatasetError, match="leads out"):
        folder.load(tmp_path, split="../other")


def test_coco_instances_apart_keep_crowds_and_areas(tmp_path, some_scenes):
    path = coco.write(some_scenes, tmp_path, "val2017")
    document = json.loads(path.read_text())
    extra = {**document["annotations"][0], "id": 999, "iscrowd": 1, "area": 12.5}
    document["annotations"].append(extra)
    path.write_text(json.dumps(document))
    first = next(iter(coco.load(tmp_path, crowd=True, apart=True)))
    assert len(first.targets) == len(some_scenes[0].targets) + 1
    assert [t.crowd for t in first.targets] == [False] * len(some_scenes[0].targets) + [True]
    assert first.targets[-1].area == 12.5 and first.targets[0].area == some_scenes[0].targets[0].mask.sum()
    joined = next(iter(coco.load(tmp_path)))
    assert len(joined.targets) == len(some_scenes[0].targets)
    assert issubclass(DatasetError, CocoError)
