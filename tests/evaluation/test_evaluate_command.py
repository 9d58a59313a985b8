"""`interp evaluate`: every task from the command line to the summary, killed and gone on with, and bad input."""

import json
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from evaluation_cases import phrase
from PIL import Image

from interp import cli
from interp.datasets import coco, gcg, refcoco, scenes
from interp.evaluation import batch
from interp.evaluation import predictions as results
from interp.evaluation import study as evaluating
from interp.evaluation.overlap import to_rles
from interp.types import Sample

DIES_IN_ITS_THIRD_BATCH = """
import os, signal, sys
from interp import cli
from interp.report import run as storage

real, done = storage.Run.put, []

def put(run, key, arrays):
    done.append(key)
    if len(done) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    real(run, key, arrays)

storage.Run.put = put
sys.exit(cli.main(sys.argv[1:]))
"""
FILES = ("samples.parquet", "phrases.parquet", "predictions.json", "summary.csv", "summary.json")


@pytest.fixture(scope="module")
def model(make_tiny_llava, tmp_path_factory):
    """Folder of a tiny LLaVA with random weights."""
    folder = tmp_path_factory.mktemp("model")
    for part in make_tiny_llava():
        part.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The same five scenes as COCO, GranD-f, RefCOCO and panoptic narratives."""
    home = tmp_path_factory.mktemp("data")
    some = [scenes.sample("test", i, size=48) for i in range(5)]
    coco.write(some, home / "coco", "val2017")
    told = {"images": [], "annotations": []}
    shown = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "object"}]}
    refs, instances = [], json.loads((home / "coco" / "annotations" / "instances_val2017.json").read_text())
    png, info, annotated = [], [], []
    for i, scene in enumerate(some):
        (home / "gcg").mkdir(exist_ok=True)
        Image.fromarray(scene.image).save(home / "gcg" / f"sa_{i}.jpg", format="PNG")
        told["images"].append({"id": f"sa_{i}"})
        shown["images"].append({"id": f"sa_{i}"})
        labels = [t.phrase for t in scene.targets]
        told["annotations"].append({"image_id": f"sa_{i}", "caption": scene.answer, "labels": labels})
        colours = np.zeros_like(scene.image)
        parts, segments = [{"utterance": "In this image we can see", "segment_ids": [], "plural": False}], []
        for j, t in enumerate(scene.targets):
            rle = to_rles(t.mask[None])[0]
            shown["annotations"].append({"image_id": f"sa_{i}", "category_id": 1, "segmentation": rle})
            key = 10 * (i + 1) + j
            colours[t.mask] = key, 0, 0
            segments.append({"id": key, "category_id": 1})
            parts.append({"utterance": f"a {t.phrase},", "segment_ids": [str(key)], "plural": bool(j)})
        annotated.append({"image_id": i, "file_name": f"{i}.png", "segments_info": segments})
        info.append({"id": i, "file_name": f"{i}.jpg"})
        png.append({"image_id": str(i), "segments": parts})
        for path, picture in ((f"val2017/{i}.jpg", scene.image), (f"panoptic_val2017/{i}.png", colours)):
            (home / "png" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(picture).save(home / "png" / path, format="PNG")
    for annotation in instances["annotations"]:
        name = next(c["name"] for c in instances["categories"] if c["id"] == annotation["category_id"])
        ref = {"ref_id": annotation["id"], "ann_id": annotation["id"], "image_id": annotation["image_id"]}
        refs.append({**ref, "split": "val", "sentences": [{"sent_id": annotation["id"], "sent": f"the {name} here"}]})
    kinds = [{"id": 1, "name": "x", "isthing": 1}]
    panoptic = {"images": info, "annotations": annotated, "categories": kinds}
    for path, document in (
        ("gcg/val_gcg_coco_caption_gt.json", told),
        ("gcg/val_gcg_coco_mask_gt.json", shown),
        ("coco/refs(unc).json", refs),
        ("coco/instances.json", instances),
        ("png/png_coco_val2017.json", png),
        ("png/panoptic_val2017.json", panoptic),
    ):
        (home / path).write_text(json.dumps(document))
    (home / "coco" / "images").symlink_to(home / "coco" / "val2017")
    return home


def command(task, model, dataset, out, *more):
    return [
        *("evaluate", task, model, dataset, "--out", str(out), "--batch", "2", "--segmenter", "threshold"),
        *("--max-new-tokens", "12", "--device", "cpu", *map(str, more)),
    ]


@pytest.fixture(autouse=True)
def no_java(monkeypatch):
    """As on a machine without Java: its start takes seconds."""
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)


def summary(out):
    return json.loads((out / "summary.json").read_text())


@pytest.mark.filterwarnings("ignore:left out")  # random answers run into their limit in the middle of a word
def test_gcg_goes_from_a_model_to_a_summary(model, root, tmp_path, capsys):
    out = tmp_path / "run"
    assert cli.main(command("gcg", model, "gcg", out, "--root", root / "gcg")) == 0
    said = capsys.readouterr()
    assert "mask recall will be left out" in said.err and "miou" in said.out
    found = summary(out)
    assert found["samples"] == 5 and set(found["measures"]) == {
        *("ap50", "miou", "mask_recall", "mask_recall_corrected", "meteor", "cider")
    }
    assert (
        found["measures"]["mask_recall"]["value"] is None
        and "no text encoder" in found["measures"]["mask_recall"]["note"]
    )
    rows = pd.read_parquet(out / "samples.parquet")
    assert list(rows["sample_id"]) == [f"sa_{i}" for i in range(5)]
    assert found["measures"]["miou"]["value"] == pytest.approx(rows["miou"].mean())
    assert (rows["answer"] != "").all()  # also of the answers without a noun phrase


@pytest.mark.parametrize(
    ("task", "dataset", "where", "measure"),
    [
        ("instances", "coco", "coco", "pacc"),
        ("referring", "refcoco", "coco", "ciou"),
        ("narrative", "narratives", "png", "average_recall"),
    ],
)
def test_every_task_goes_from_the_command_line_to_the_summary(task, dataset, where, measure, model, root, tmp_path):
    out = tmp_path / "run"
    more = ["--answers", "reference"] if task == "instances" else []
    assert cli.main(command(task, model, dataset, out, "--root", root / where, *more)) == 0
    found = summary(out)["measures"][measure]
    assert 0 <= found["value"] <= 1 and found["n"] > 0 and summary(out)["failed"] == 0
    assert all((out / name).exists() for name in FILES)
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["finished"] and manifest["arguments"]["segmenter"] == "threshold"


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(model, tmp_path, monkeypatch):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    arguments = ("--samples", "5", "--answers", "reference")
    assert cli.main(command("gcg", model, "scenes", whole, *arguments)) == 0
    words = [str(word) for word in command("gcg", model, "scenes", killed, *arguments)]
    done = subprocess.run([sys.executable, "-c", DIES_IN_ITS_THIRD_BATCH, *words], capture_output=True, timeout=300)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert not (killed / "summary.json").exists()
    assert len(list((killed / "parts").glob("*.npz"))) == 2
    computed = []
    real = batch.records_of
    monkeypatch.setattr(evaluating, "records_of", lambda *a: computed.append(len(a[2])) or real(*a))
    assert cli.main(command("gcg", model, "scenes", killed, *arguments)) == 0
    assert computed == [1]  # the third batch alone, of five samples in twos
    for name in FILES:
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name


def test_another_run_in_the_folder_is_refused_and_force_starts_over(model, tmp_path, capsys):
    out = tmp_path / "run"
    arguments = ("--samples", "2", "--answers", "reference")
    assert cli.main(command("gcg", model, "scenes", out, *arguments)) == 0
    assert cli.main(command("gcg", model, "scenes", out, *arguments, "--heads", "released")) == 2
    assert "heads was 'all', now 'released'" in capsys.readouterr().err
    assert cli.main(command("gcg", model, "scenes", out, *arguments, "--heads", "released", "--force")) == 0


@pytest.mark.parametrize(
    ("task", "dataset", "more", "word"),
    [
        ("referring", "scenes", (), "needs one expression a sample"),
        ("narrative", "scenes", (), "needs the data set narratives"),
        ("referring", "scenes", ("--answers", "generated"), "leave out --answers generated"),
        ("narrative", "scenes", ("--merge", "drop"), "needs a mask for every phrase"),
        ("gcg", "scenes", ("--encoder", "/nosuch"), "no text encoder '/nosuch'"),
        ("gcg", "scenes", ("--heads", "top3"), "needs --ranking"),
        ("gcg", "gcg", (), "no folder given"),
        ("gcg", "scenes", ("--split", "nosuch"), "no split 'nosuch'"),
        ("instances", "scenes", ("--predictions", "x"), "can be scored for gcg"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(task, dataset, more, word, model, tmp_path, capsys):
    assert cli.main(command(task, model, dataset, tmp_path / "run", "--samples", "2", *more)) == 2
    assert word in capsys.readouterr().err


def test_images_without_masks_are_refused_before_the_model_answers(model, root, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(batch, "captures", None)
    out = tmp_path / "run"
    assert cli.main(command("gcg", model, "folder", out, "--root", root / "gcg", "--samples", "2")) == 2
    assert "has a mask to compare with" in capsys.readouterr().err


# --- results in files ----------------------------------------------------------------------------------------------


@pytest.fixture
def predictions(root, tmp_path):
    """The true masks of GranD-f's samples as the released evaluation reads predictions."""
    folder = tmp_path / "predictions"
    folder.mkdir()
    for sample in gcg.load(root / "gcg"):
        document = {
            "image_id": sample.id,
            "caption": sample.answer,
            "phrases": [t.phrase for t in sample.targets],
            "pred_masks": to_rles(np.stack([t.mask for t in sample.targets])),
        }
        (folder / f"{sample.id}.json").write_text(json.dumps(document))
    return folder


def test_perfect_predictions_in_files_score_one(predictions, root, tmp_path):
    out = tmp_path / "run"
    more = ("--root", root / "gcg", "--predictions", predictions)
    assert cli.main(command("gcg", "somebody's", "gcg", out, *more)) == 0
    found = summary(out)["measures"]
    assert found["ap50"]["value"] == pytest.approx(1) and found["miou"]["value"] == 1 and found["cider"]["value"] > 5


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda d: d.update(image_id="sa_4"), "is about image 'sa_4'"),
        (lambda d: d["pred_masks"].pop(), "phrases and .* masks"),
        (lambda d: d.pop("caption"), "has not caption"),
        (lambda d: d["pred_masks"][0].update(size=[10, 10]), "run lengths of mask 0"),
        (lambda d: d["pred_masks"][0].update(counts="0"), "run lengths of mask 0"),
        (lambda d: d.update(phrases=None), "Input should be a valid list"),
        (lambda d: d.update(pred_masks=3), "Input should be a valid list"),
        (lambda d: d.update(caption=None), "no usable caption.*got None"),
        (lambda d: d["phrases"].__setitem__(0, None), r"no usable phrases\.0.*got None"),
        (lambda d: d["phrases"].__setitem__(0, "a \ud83d"), "half a character"),
    ],
)
def test_predictions_of_another_run_are_refused(change, word, predictions, root):
    path = predictions / "sa_0.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))
    with pytest.raises(results.ResultsMismatch, match=word):
        results.read_gcg(predictions, gcg.load(root / "gcg"))


def test_predictions_that_are_missing_or_named_to_leave_the_folder_are_refused(predictions, root):
    (predictions / "sa_3.json").unlink()
    with pytest.raises(results.ResultsMismatch, match=r"has no sa_3\.json"):
        results.read_gcg(predictions, gcg.load(root / "gcg"))
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(results.ResultsMismatch, match="no plain file name"):
        results.read_gcg(predictions, [Sample("../secret", image, "p")])


def test_cocos_results_file_is_scored_and_one_of_another_data_set_refused(root, tmp_path, capsys):
    document = json.loads((root / "coco" / "annotations" / "instances_val2017.json").read_text())
    found = [
        {"image_id": a["image_id"], "category_id": a["category_id"], "segmentation": a["segmentation"], "score": 0.9}
        for a in document["annotations"]
    ]
    path, out = tmp_path / "results.json", tmp_path / "run"
    path.write_text(json.dumps(found))
    more = ("--root", root / "coco", "--predictions", path)
    assert cli.main(command("instances", "somebody's", "coco", out, *more)) == 0
    assert summary(out)["measures"]["ap"]["value"] == pytest.approx(1)
    for change, word in (({"image_id": 777}, "not among the samples"), ({"category_id": 777}, "of category 777")):
        path.write_text(json.dumps([*found, {**found[0], **change}]))
        assert cli.main(command("instances", "somebody's", "coco", tmp_path / "other", *more)) == 2
        assert word in capsys.readouterr().err


def test_the_phrases_of_a_file_have_a_root():
    made = results._phrase("the brown dog")
    assert (made.text, made.root) == (phrase("the brown dog").text, "dog")


@pytest.mark.parametrize(
    ("task", "data", "where"), [("referring", "refcoco", "coco"), ("narrative", "narratives", "png")]
)
def test_the_predictions_of_a_run_are_scored_again_from_their_file_with_the_same_numbers(
    task, data, where, model, root, tmp_path
):
    more = ("--root", root / where)
    assert cli.main(command(task, model, data, tmp_path / "run", *more)) == 0
    again = (*more, "--predictions", tmp_path / "run" / "predictions.json")
    assert cli.main(command(task, "somebody's", data, tmp_path / "again", *again)) == 0
    first, second = (summary(tmp_path / name)["measures"] for name in ("run", "again"))
    assert first == second and any(measure["value"] for measure in first.values())


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda found: found[0].update(sample_id="nobody"), "that are not among the samples, first 'nobody'"),
        (lambda found: found[0].pop("sample_id"), "says neither sample_id nor ref_id and sent_id"),
        (lambda found: found.append(found[0]), "has 2 results for .* which has 1 phrases"),
        (lambda found: found[0].update(segmentation=None), "result 0 has no usable segmentation"),
        (lambda found: found[0].update(score="high"), "result 0 has no usable score"),
        (lambda found: found[0].update(score=float("nan")), "result 0 has no usable score"),
        (lambda found: found[0].update(point=[1]), "result 0 has no usable point"),
        (lambda found: found[0]["segmentation"].update(counts="0"), "run lengths of result 0"),
    ],
)
def test_results_that_are_not_whole_are_refused_with_what_was_expected(change, word, root, tmp_path):
    samples = list(refcoco.load(root / "coco"))
    found = [
        {"sample_id": s.id, "segmentation": to_rles(s.targets[0].mask[None])[0], "score": 0.5, "point": [1, 2]}
        for s in samples
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(found))
    records, _ = results.read_results(path, samples)
    measures = evaluating.evaluate("referring", records).measures.set_index("measure")["value"]
    assert measures["ciou"] == 1
    change(found)
    path.write_text(json.dumps(found))
    with pytest.raises(results.ResultsMismatch, match=word):
        results.read_results(path, samples)


def test_an_expression_without_a_result_counts_as_a_miss(root, tmp_path):
    samples = list(refcoco.load(root / "coco"))
    path = tmp_path / "results.json"
    first = to_rles(samples[0].targets[0].mask[None])[0]
    ref, _, sent = samples[0].id.partition("-")
    path.write_text(json.dumps([{"ref_id": int(ref), "sent_id": int(sent), "segmentation": first}]))
    records, _ = results.read_results(path, samples)
    table = evaluating.evaluate("referring", records).samples
    assert table["iou"].tolist() == [1.0] + [0.0] * (len(samples) - 1)


def test_the_report_shows_the_best_the_median_and_the_worst(root, tmp_path):
    samples = list(refcoco.load(root / "coco"))[:5]
    found = []
    for i, s in enumerate(samples):
        mask = s.targets[0].mask.copy()
        mask[np.nonzero(mask)[0].min() :][: 4 * i] = False  # ever less of it
        found.append({"sample_id": s.id, "segmentation": to_rles(mask[None])[0]})
    path, out = tmp_path / "results.json", tmp_path / "run"
    path.write_text(json.dumps(found))
    more = ("--root", root / "coco", "--predictions", path, "--samples", "5")
    assert cli.main(command("referring", "somebody's", "refcoco", out, *more)) == 0
    table = pd.read_parquet(out / "samples.parquet").sort_values("iou", ascending=False)["sample_id"].tolist()
    shown = json.loads((out / "manifest.json").read_text())["pictures"]
    assert [shown[p]["sample_id"] for p in ("best", "median", "worst")] == [table[0], table[2], table[4]]
    page = (out / "report.html").read_text()
    assert page.count("data:image/png;base64") == 3 and "ciou" in page
    for place in ("best", "median", "worst"):
        with Image.open(out / "figures" / f"{place}.png") as picture:
            assert picture.width > 300
