"""COCO-format data: what pycocotools reads is what interp reads, and nothing that is broken passes or ends a run."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

import interp
from interp.datasets import _files, coco, scenes
from interp.datasets._annotations import EntryLeftOut
from interp.types import Sample, Skip, Target
from interp.work.store import Memory

HEIGHT, WIDTH = 40, 52
DOG, CHAIR = 18, 62
pycocotools_decodes = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy")


def rectangle(y, x, height=10, width=14):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[y : y + height, x : x + width] = True
    return mask


def compressed(mask):
    from pycocotools import mask as tools

    found = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def uncompressed(mask):
    flat = mask.T.ravel().tolist()
    counts, inside = [], False
    while flat:
        run = next((i for i, value in enumerate(flat) if value != inside), len(flat))
        counts.append(run)
        flat, inside = flat[run:], not inside
    return {"size": list(mask.shape), "counts": counts}


@pytest.fixture
def folder(tmp_path):
    """Makes a COCO folder of ``n`` images of a dog and a chair; ``change(instances)`` damages it."""

    def make(n=3, change=lambda instances: None, captions=("A dog and a chair.",), where="val2017"):
        (tmp_path / "annotations").mkdir(exist_ok=True)
        (tmp_path / where).mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for i in range(n):
            key = 100 - 7 * i  # neither sorted nor counted
            Image.fromarray(rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)).save(
                tmp_path / where / f"{i}.png"
            )
            images.append({"id": key, "file_name": f"{i}.png", "height": HEIGHT, "width": WIDTH})
            for category, mask in ((DOG, rectangle(2 + i, 3)), (CHAIR, rectangle(25, 20 + i))):
                annotations.append({"id": len(annotations) + 1, "image_id": key, "category_id": category})
                annotations[-1] |= {"segmentation": compressed(mask), "iscrowd": 0}
        categories = [{"id": DOG, "name": "dog"}, {"id": CHAIR, "name": "chair"}]
        instances = {"images": images, "annotations": annotations, "categories": categories}
        change(instances)
        (tmp_path / "annotations" / "instances_val2017.json").write_text(json.dumps(instances))
        said = [{"id": j, "image_id": i["id"], "caption": c} for i in images for j, c in enumerate(captions)]
        if captions:
            (tmp_path / "annotations" / "captions_val2017.json").write_text(json.dumps({"annotations": said}))
        return tmp_path

    return make


def changed(**fields):
    """A damage to the second image's first annotation."""
    return lambda instances: instances["annotations"][2].update(fields)


def same_sample(a, b):
    return (
        (a.id, a.prompt, a.answer) == (b.id, b.prompt, b.answer)
        and np.array_equal(a.image, b.image)
        and [t.phrase for t in a.targets] == [t.phrase for t in b.targets]
        and all(np.array_equal(s.mask, t.mask) for s, t in zip(a.targets, b.targets, strict=True))
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("written")
    samples = list(scenes.load(samples=6, size=96))
    path = coco.write(samples, root, "test")
    return root, path, samples


def test_scenes_written_and_loaded_have_equal_images_masks_and_captions(written):
    root, _, samples = written
    loaded = list(coco.load(root, "test"))
    assert len(loaded) == len(samples) == 6
    for i, (before, after) in enumerate(zip(samples, loaded, strict=True)):
        assert same_sample(Sample(str(i + 1), before.image, before.prompt, before.answer, before.targets), after)


@pycocotools_decodes
def test_pycocotools_reads_what_was_written(written):
    from pycocotools import mask as tools
    from pycocotools.coco import COCO

    _, path, samples = written
    theirs = COCO(path)
    assert sorted(theirs.imgs) == [1, 2, 3, 4, 5, 6]
    for number, sample in enumerate(samples, 1):
        annotations = theirs.loadAnns(theirs.getAnnIds(imgIds=number))
        assert [theirs.cats[a["category_id"]]["name"] for a in annotations] == [t.phrase for t in sample.targets]
        for annotation, target in zip(annotations, sample.targets, strict=True):
            np.testing.assert_array_equal(theirs.annToMask(annotation), target.mask)
            lengths = theirs.annToRLE(annotation)
            assert (annotation["area"], annotation["bbox"]) == (tools.area(lengths), tools.toBbox(lengths).tolist())
    captions = COCO(path.with_name("captions_test.json"))
    assert [captions.anns[i]["caption"] for i in sorted(captions.anns)] == [s.answer for s in samples]


def test_whole_numbers_stay_ids_and_other_ids_stay_file_names(tmp_path):
    image, targets = np.zeros((HEIGHT, WIDTH, 3), np.uint8), (Target("dog", rectangle(0, 0)),)
    coco.write([Sample(key, image, "", None, targets) for key in ("139", "7")], tmp_path, "numbers")
    assert [s.id for s in coco.load(tmp_path, "numbers")] == ["139", "7"]
    coco.write([Sample(key, image, "", None, targets) for key in ("007", "b")], tmp_path, "names")
    assert [s.id for s in coco.load(tmp_path, "names")] == ["1", "2"]
    assert sorted(p.name for p in (tmp_path / "names").iterdir()) == ["007.png", "b.png"]


@pytest.mark.parametrize("mend", ["delete", "split"])
def test_nothing_is_written_over_what_is_there(written, mend):
    root, path, samples = written
    before = path.read_bytes()
    with pytest.raises(coco.CocoError, match=mend):
        coco.write(samples[:1], root, "test")
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (("a", "a"), rectangle(0, 0), "twice"),
        (("a", "../b"), rectangle(0, 0), "file name"),
        (("a", "b"), rectangle(0, 0)[1:], r"\(39, 52\), the image \(40, 52\)"),
        ((), rectangle(0, 0), "no samples"),
    ],
)
def test_what_cannot_be_written_leaves_no_split_that_looks_whole(tmp_path, ids, mask, message):
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    with pytest.raises(coco.CocoError, match=message):
        coco.write([Sample(key, image, "", None, (Target("dog", mask),)) for key in ids], tmp_path)
    assert not list((tmp_path / "annotations").iterdir())


SHAPES = {
    "rectangle": rectangle(3, 5),
    "from the first pixel": rectangle(0, 0),
    "all": np.ones((HEIGHT, WIDTH), bool),
    "none": np.zeros((HEIGHT, WIDTH), bool),
    "one pixel": rectangle(39, 51, 1, 1),
    "noise": np.random.default_rng(1).random((HEIGHT, WIDTH)) < 0.5,
    "sparse": np.random.default_rng(2).random((HEIGHT, WIDTH)) < 0.003,  # run lengths of several characters
}


@pytest.mark.parametrize("write_down", [compressed, uncompressed])
@pytest.mark.parametrize("shape", SHAPES)
def test_run_lengths_give_the_mask_they_were_made_of(folder, shape, write_down):
    root = folder(change=changed(segmentation=write_down(SHAPES[shape])))
    np.testing.assert_array_equal(list(coco.load(root))[1].targets[0].mask, SHAPES[shape])


@pycocotools_decodes
@pytest.mark.parametrize(
    "polygons",
    [
        [[5, 5, 30.5, 6, 20, 33.25]],
        [[1, 1, 10, 1, 10, 10, 1, 10], [30, 20, 51.9, 20, 40, 39.9]],
        [[-6, -6, 60, -6, 60, 20, -6, 20]],  # reaches over the edge
    ],
)
def test_polygons_give_the_masks_of_pycocotools(folder, polygons):
    from pycocotools.coco import COCO

    root = folder(change=changed(segmentation=polygons))
    theirs = COCO(root / "annotations" / "instances_val2017.json")
    mask = theirs.annToMask(theirs.anns[3]).astype(bool)
    assert 0 < mask.sum() < mask.size
    np.testing.assert_array_equal(list(coco.load(root))[1].targets[0].mask, mask)


def test_instances_of_a_category_are_joined_and_crowds_left_out_unless_asked_for(folder):
    def more(instances):
        for crowd, mask in ((0, rectangle(20, 3)), (1, rectangle(2, 30))):
            extra = {"id": 90 + crowd, "image_id": 93, "category_id": DOG, "segmentation": uncompressed(mask)}
            instances["annotations"].append(extra | {"iscrowd": crowd})

    root = folder(change=more)
    dog, chair = list(coco.load(root))[1].targets
    assert (dog.phrase, chair.phrase) == ("dog", "chair")
    np.testing.assert_array_equal(dog.mask, rectangle(3, 3) | rectangle(20, 3))
    with_crowds = list(coco.load(root, crowd=True))[1].targets[0].mask
    np.testing.assert_array_equal(with_crowds, rectangle(3, 3) | rectangle(20, 3) | rectangle(2, 30))


def test_samples_come_in_the_files_order_and_again(folder):
    data = coco.load(folder(5))
    assert [s.id for s in data] == ["100", "93", "86", "79", "72"]
    assert [s.id for s in coco.load(folder(5), samples=2)] == ["100", "93"]
    assert len(data) == 5 and all(same_sample(a, b) for a, b in zip(data, data, strict=True))
    assert iter(data) is not data  # else a ranking would keep all images in memory


def test_one_image_is_read_at_a_time(folder, monkeypatch):
    read = []
    image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    monkeypatch.setattr(_files, "read_image", lambda path, **_: read.append(path.name) or image)
    samples = iter(coco.load(folder(5)))
    next(samples)
    assert read == ["0.png"]


def test_the_answer_is_the_longest_caption(folder):
    captions = ("A dog.", "\n A dog and a chair. ", "A cat and a chair.")
    assert {s.answer for s in coco.load(folder(captions=captions))} == {"A dog and a chair."}


def test_without_captions_there_is_no_answer(folder):
    assert {s.answer for s in coco.load(folder(captions=()))} == {None}
    assert {s.prompt for s in coco.load(folder(captions=()))} == {coco.PROMPT}


@pytest.mark.parametrize("where", ["val2017", "images/val2017", "images", "."])
def test_images_are_found_where_people_put_them(folder, where):
    assert all(isinstance(s, Sample) for s in coco.load(folder(where=where)))


def test_file_names_may_name_their_folder(folder):
    def longer(instances):
        for image in instances["images"]:
            image["file_name"] = f"elsewhere/deep/{image['file_name']}"

    assert all(isinstance(s, Sample) for s in coco.load(folder(change=longer, where="elsewhere/deep")))


def test_a_wrong_split_names_those_that_are_there(folder):
    with pytest.raises(coco.CocoError, match=r"no annotation file .*instances_test.json.* val2017"):
        coco.load(folder(), "test")


@pytest.mark.parametrize(("root", "samples", "message"), [(None, None, "no folder"), ("", 0, "at least 1")])
def test_bad_arguments_are_refused(root, samples, message):
    with pytest.raises(coco.CocoError, match=message):
        coco.load(root, samples=samples)


def test_an_empty_folder_is_said_to_be_empty(tmp_path):
    with pytest.raises(coco.CocoError, match=r"no instances_\*.json at all"):
        coco.load(tmp_path)


@pytest.mark.parametrize(("text", "message"), [('{"images": [', "not JSON"), ("[]", "holds a list"), ("{}", "no list")])
def test_a_damaged_annotation_file_is_named(folder, text, message):
    path = folder() / "annotations" / "instances_val2017.json"
    path.write_text(text)
    with pytest.raises(coco.CocoError, match=f"instances_val2017.json.*{message}"):
        coco.load(path.parents[1])


def in_whole(samples):
    """Id -> its targets' phrases."""
    return {s.id: [t.phrase for t in s.targets] for s in samples if isinstance(s, Sample)}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_id": 12345}, "image_id 12345 is not in images"),
        ({"category_id": 12345}, "category_id 12345 is not in categories"),
        ({"image_id": None}, r"annotations\[2\]: no usable 'image_id'.*got None"),
        ({"image_id": True}, "no usable 'image_id'.*got True"),
        ({"category_id": [1]}, "no usable 'category_id'"),
        ({"segmentation": None}, "no usable 'segmentation'"),
        ({"segmentation": "x"}, "no usable 'segmentation'"),
        ({"area": "big"}, "no usable 'area'.*valid number.*got 'big'"),
        ({"area": float("nan")}, "no usable 'area'.*finite number"),
        ({"area": -3}, "no usable 'area'.*greater than or equal to 0"),
        ({"iscrowd": "perhaps"}, "no usable 'iscrowd'.*boolean"),
        ({"iscrowd": 2}, "no usable 'iscrowd'"),
    ],
)
def test_a_bad_entry_costs_itself_not_its_image_and_not_the_file(folder, fields, message):
    with pytest.warns(EntryLeftOut, match=rf"left out 1 entries, first instances_val2017.json: .*{message}"):
        data = coco.load(folder(change=changed(**fields)))
    assert in_whole(data) == {"100": ["dog", "chair"], "93": ["chair"], "86": ["dog", "chair"]}
    assert len(data.left_out) == 1


@pytest.mark.parametrize("crowd", ["1", 1, True, 1.0, "true"])
@pytest.mark.parametrize("single", ["0", 0, False, None, "false"])
def test_crowds_are_told_from_single_things_however_the_file_writes_them(folder, crowd, single):
    def write(instances):
        for annotation in instances["annotations"]:
            annotation["iscrowd"] = crowd if annotation["category_id"] == CHAIR else single

    root = folder(change=write)
    assert set(map(tuple, in_whole(coco.load(root)).values())) == {("dog",)}
    assert [t.crowd for t in next(iter(coco.load(root, crowd=True, apart=True))).targets] == [False, True]


@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_annotations_of_another_data_set_are_refused(folder, field):
    def elsewhere(instances):
        for annotation in instances["annotations"]:
            annotation[field] = 5

    with pytest.raises(coco.CocoError, match=f"none of 6 annotations points by {field}"):
        coco.load(folder(change=elsewhere))


@pytest.mark.parametrize("field", ["image_id", "category_id"])
def test_an_id_that_is_a_text_in_one_list_and_a_number_in_the_other_is_one_id(folder, field):
    def as_text(instances):
        for annotation in instances["annotations"]:
            annotation[field] = str(annotation[field])

    assert in_whole(coco.load(folder(change=as_text)))["93"] == ["dog", "chair"]


@pytest.mark.parametrize("name", ["../0.png", "a/../../0.png", "/etc/0.png", r"..\0.png", r"C:\0.png", "C:0.png", ""])
def test_no_file_outside_the_folder_is_read(folder, name):
    root = folder(change=lambda instances: instances["images"][1].update(file_name=name))
    (root.parent / "0.png").write_bytes((root / "val2017" / "0.png").read_bytes())
    with pytest.warns(EntryLeftOut, match="leads out of the folder"):
        data = coco.load(root)
    assert list(in_whole(data)) == ["100", "86"]


def test_of_an_id_that_comes_twice_with_unlike_contents_none_is_taken(folder):
    def twice(instances):
        instances["images"][1] |= {"id": str(instances["images"][0]["id"])}

    with pytest.warns(EntryLeftOut, match="occurs twice"):
        assert list(in_whole(coco.load(folder(change=twice)))) == ["86"]
    same = folder(change=lambda instances: instances["images"].append(dict(instances["images"][0])))
    assert len(coco.load(same)) == 3


def test_captions_of_another_data_set_are_refused(folder):
    root = folder()
    path = root / "annotations" / "captions_val2017.json"
    path.write_text(json.dumps({"annotations": [{"id": 1, "image_id": 5, "caption": "A dog."}]}))
    with pytest.raises(coco.CocoError, match="no caption for any image"):
        coco.load(root)


def runs(*counts, size=(HEIGHT, WIDTH)):
    return {"size": list(size), "counts": list(counts)}


HALF = compressed(rectangle(0, 0))["counts"]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        (runs(100, 20), "add up to 120 pixels; expected .* 2080"),
        (runs(2000, 81), "add up to 2081"),
        (runs(2090, -10), "expected a list of numbers"),
        (runs(10**30), "expected a list of numbers"),
        (runs(), "add up to 0"),
        (runs(2080, size=(WIDTH, HEIGHT)), r"for size \[52, 40\]"),
        ({"counts": [2080]}, "size None"),
        ({"size": [HEIGHT, WIDTH], "counts": HALF[:-2]}, "run lengths of annotation 3"),
        ({"size": [HEIGHT, WIDTH], "counts": HALF + "5"}, "add up to"),
        ({"size": [HEIGHT, WIDTH], "counts": HALF + "o"}, "expected a list of numbers or COCO's text"),
        ({"size": [HEIGHT, WIDTH], "counts": "oooooooooooooooooooooooo0"}, "run lengths of annotation 3"),
        ({"size": [HEIGHT, WIDTH], "counts": "hühner"}, "expected a list of numbers or COCO's text"),
        ({"size": [HEIGHT, WIDTH], "counts": ""}, "expected a list of numbers or COCO's text"),
        ({"size": [HEIGHT, WIDTH]}, "expected a list of numbers or COCO's text"),
        ([], "at least three points"),
        ([[1, 1, 10, 10]], "at least three points"),
        ([[1, 1, 10, 1, 10, 10, 5]], "at least three points"),
        ([1, 1, 10, 1, 10, 10], "at least three points"),
        ([[1, 1, 10, float("nan"), 10, 10]], "at least three points"),
        ([[1, 1, 1e9, 1, 10, 10]], "in an image of 52 x 40"),
        ([["left", 1, 10, 1, 10, 10]], "at least three points"),
    ],
)
def test_a_broken_mask_costs_itself_and_says_why(folder, segmentation, message):
    data = coco.load(folder(change=changed(segmentation=segmentation)))
    with pytest.warns(EntryLeftOut, match="annotation 3 of image 93"):
        found = in_whole(data)
    assert found == {"100": ["dog", "chair"], "93": ["chair"], "86": ["dog", "chair"]}
    with pytest.raises(coco.CocoError, match=message):
        raise coco.CocoError(next(iter(data.left_out.values())))
    list(data)  # it is told once


@pytest.mark.filterwarnings("ignore::interp.datasets._annotations.EntryLeftOut")
def test_an_image_none_of_whose_masks_can_be_read_is_skipped_with_the_reason(folder):
    def both(instances):
        for annotation in instances["annotations"][2:4]:
            annotation["segmentation"] = {"size": [1, 1], "counts": [1]}

    before, broken, after = coco.load(folder(change=both))
    assert isinstance(before, Sample) and isinstance(after, Sample)
    assert isinstance(broken, Skip) and broken.sample_id == "93" and "the run lengths of annotation 3" in broken.reason


def remove(path):
    path.unlink()


def cut_off(path):
    path.write_bytes(path.read_bytes()[:200])


def resize(path):
    Image.open(path).resize((26, 20)).save(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(remove, "no file 1.png"), (cut_off, "cannot be read"), (resize, "20 x 26 .* annotations are for 40 x 52")],
)
def test_a_broken_image_is_skipped_alone_and_says_why(folder, damage, message):
    root = folder()
    damage(root / "val2017" / "1.png")
    before, broken, after = coco.load(root)
    assert isinstance(before, Sample) and isinstance(after, Sample)
    assert isinstance(broken, Skip) and broken.sample_id == "93"
    with pytest.raises(coco.CocoError, match=message):
        raise coco.CocoError(broken.reason)


def test_polygons_without_pycocotools_say_what_to_install_before_the_run_starts(folder, monkeypatch):
    root = folder(change=changed(segmentation=[[5, 5, 30, 6, 20, 33]]))
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(coco.PycocotoolsMissing, match="pip install"):
        coco.load(root)
    assert all(isinstance(s, Sample) for s in coco.load(root, samples=1))  # that image has run lengths


def ranked(lmm, dataset, batch=2, **options):
    metrics = ["pointing_game", "image_mass"]
    return interp.rank(lmm, dataset, metrics, batch=batch, nulls=2, progress=False, **options)


def same_ranking(a, b):
    return all(
        score.sample_ids == b.scores[name].sample_ids and np.array_equal(score.values, b.scores[name].values, True)
        for name, score in a.scores.items()
    )


def test_one_unreadable_image_neither_ends_a_ranking_nor_changes_it(folder, tiny_lmm):
    root = folder(5)
    cut_off(root / "val2017" / "2.png")
    # One image a batch: matrix products of other sizes round otherwise.
    found = ranked(tiny_lmm, coco.load(root), batch=1)
    assert [(s.sample_id, "cannot be read" in s.reason) for s in found.skipped] == [("86", True)]
    assert (found.manifest["samples"], found.manifest["images"]) == (5, 4)
    assert same_ranking(found, ranked(tiny_lmm, [s for s in coco.load(root) if isinstance(s, Sample)], batch=1))


def test_an_image_that_goes_away_during_a_run_loses_nothing_already_computed(folder, tiny_lmm, monkeypatch):
    monkeypatch.setattr("interp.work.samples.HELD", 0)  # too many images to keep from the walk for masks
    root = folder(9)
    whole = Memory()
    before = ranked(tiny_lmm, coco.load(root), store=whole)

    class Forgetful(Memory):
        """The last image vanishes once the first batch is stored; the batches behind it are read ahead by then."""

        def put(self, key, arrays):
            super().put(key, arrays)
            (root / "val2017" / "8.png").unlink(missing_ok=True)

    store = Forgetful()
    found = ranked(tiny_lmm, coco.load(root), store=store)
    assert [s.sample_id for s in found.skipped] == ["44"]
    batches = {key for key in whole.entries if key.startswith("scores-")}
    assert len(batches) == 5 and len(batches & set(store.entries)) == 4  # all but the one that holds it
    kept = [i for i, key in enumerate(before.scores["pointing_game"].sample_ids) if key != "44"]
    np.testing.assert_allclose(found.scores["pointing_game"].values, before.scores["pointing_game"].values[kept])


def test_captures_hand_a_skip_on_in_its_place(folder, tiny_lmm):
    root = folder(3)
    remove(root / "val2017" / "1.png")
    found = list(interp.captures(tiny_lmm, coco.load(root), batch=2))
    assert [type(f).__name__ for f in found] == ["Capture", "Skip", "Capture"]
    assert [f.sample_id for f in found] == ["100", "93", "86"]
