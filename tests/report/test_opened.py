"""A run's folder, opened again: the result as it was, its scores one by one, and its figures without a model."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest

import interp
from interp import cli
from interp.datasets import scenes
from interp.report.opened import NothingToOpen
from interp.report.run import Run
from interp.report.scores import Scores, write
from interp.statistics.scores import HeadScores

OWN = '''"""Share of what a map has above 0 that lies in the mask."""
higher_is_better, raw, uses_mask, limits = True, False, True, (0.0, 1.0)


def score(maps, masks, others):
    up = maps.clamp(min=0)
    return (up * masks[:, None, None]).sum((-1, -2)) / up.sum((-1, -2))


def chance(masks):
    return masks.mean((-1, -2))
'''


@pytest.fixture(scope="module")
def ranked(make_tiny_llava, tmp_path_factory):
    """The folder of a ranking by a metric of one's own, and its model's."""
    home = tmp_path_factory.mktemp("runs")
    for part in make_tiny_llava(0):
        part.save_pretrained(home / "model")
    (home / "own.py").write_text(OWN)
    words = ["rank", str(home / "model"), "scenes", "--samples", "5", "--batch", "2", "--words", "targets"]
    words += ["--metrics", "pointing_game", str(home / "own.py"), "--device", "cpu", "--out", str(home / "run")]
    assert cli.main([*words, "--format", "pdf"]) == 0
    return home


def test_an_opened_ranking_is_the_one_that_was_made(ranked):
    again = interp.open(ranked / "run")
    made = interp.rank(
        str(ranked / "model"), scenes.load(samples=5), ["pointing_game", str(ranked / "own.py")], batch=2,
        phrases="targets", progress=False,
    )  # fmt: skip
    for name, table in made.tables().items():
        assert again[name].equals(table.reset_index(drop=True)), name
    assert {**again.scores} == made.scores  # single precision is all there is
    assert again.top(3) == made.top(3) and again.headline == made.headline and again.skipped == made.skipped
    assert again.plot().axes[0].get_title(loc="left") == made.plot().axes[0].get_title(loc="left")
    assert interp.read_heads(f"top2 of {ranked / 'run'}") == made.top(2)


def test_scores_lie_in_a_row_group_a_batch_so_that_a_few_images_can_be_read_alone(ranked):
    file = pq.ParquetFile(ranked / "run" / "scores.parquet")
    phrases = len(interp.open(ranked / "run").scores["own"])
    assert file.metadata.num_row_groups == 3 and file.metadata.num_rows == phrases * 2 * 3 * 4
    assert {file.metadata.row_group(0).column(i).compression for i in range(file.metadata.num_columns)} == {"ZSTD"}
    first = file.read_row_group(0).to_pandas()
    assert first["sample_id"].nunique() == 2 and set(first["metric"]) == {"pointing_game", "own"}


def test_layers_without_heads_and_missing_nulls_come_back_as_they_were(tmp_path):
    values = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    own = HeadScores("m", False, ("b", "a", "a"), ("x", "y", "y"), values, layers=(3, 7), image_ids=("2", "1", "1"))
    write(tmp_path, {"m": own}, 1)
    back = Scores(tmp_path / "scores.parquet", {"m": False})["m"]
    assert np.array_equal(back.values, values) and np.isnan(back.null).all() and back.layers == (3, 7)
    assert (back.sample_ids, back.phrases, back.images) == (own.sample_ids, own.phrases, own.images)
    before = (tmp_path / "scores.parquet").read_bytes()
    write(tmp_path, {"m": own}, 1)
    assert (tmp_path / "scores.parquet").read_bytes() == before
    with pytest.raises(KeyError, match="there are: m"):
        Scores(tmp_path / "scores.parquet", {"m": False})["n"]


def test_figures_are_drawn_anew_without_the_model_as_narrow_as_a_column(ranked, capsys):
    run = ranked / "run"
    assert (run / "figures" / "heads_pointing_game.pdf").read_bytes().startswith(b"%PDF")
    assert not (run / "figures" / "heads_own.pdf").exists() and "interp redraw" in (run / "report.html").read_text()
    model = ranked / "model"
    model.rename(ranked / "gone")
    try:
        assert cli.main(["redraw", str(run), "--format", "pdf,svg", "--width", "3.3", "--dpi", "100"]) == 0
    finally:
        (ranked / "gone").rename(model)
    pdf = (run / "figures" / "heads_own.pdf").read_bytes()
    (left, _, right, _) = map(float, pdf.partition(b"/MediaBox [ ")[2].split(b"]")[0].split())
    assert right - left == pytest.approx(3.3 * 72, abs=1)
    assert b"/FontFile2" in pdf and b"/Type3" not in pdf  # TrueType, which journals ask for
    assert ">own: best is L" in (run / "figures" / "heads_own.svg").read_text()  # text is text
    assert "Not drawn yet" not in (run / "report.html").read_text()
    assert "report:" in capsys.readouterr().out


def test_a_folder_without_results_says_how_to_get_them(ranked, tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        interp.open(tmp_path)
    Run.open(tmp_path / "begun", {"model": "x"})
    with pytest.raises(NothingToOpen, match="run the same command again"):
        interp.open(tmp_path / "begun")
    assert cli.main(["redraw", str(tmp_path / "begun")]) == 2


def test_a_segmentation_and_a_capture_are_opened_and_drawn_from_their_folders(ranked, tmp_path):
    from PIL import Image

    Image.fromarray(scenes.sample("test", 0, size=48).image).save(tmp_path / "scene.png")
    asked = [str(ranked / "model"), str(tmp_path / "scene.png"), "What?", "--answer", "A dog.", "--device", "cpu"]
    assert cli.main(["segment", *asked, "--segmenter", "threshold", "--out", str(tmp_path / "masks")]) == 0
    assert cli.main(["capture", *asked, "--out", str(tmp_path / "capture")]) == 0
    made = interp.open(tmp_path / "masks")
    assert made.answer == "A dog." and made["dog"].shape == (48, 48)
    assert len(interp.open(tmp_path / "capture")) == 1
    for folder in ("masks", "capture"):
        picture = next((tmp_path / folder / "figures").glob("*.png"))
        before = picture.read_bytes()
        picture.unlink()
        assert cli.main(["redraw", str(tmp_path / folder)]) == 0
        assert picture.read_bytes() == before


def test_the_first_line_of_a_documentation_bears_no_markup_in_a_report():
    from interp.report.html import first_line

    assert (
        first_line("Masks of *other* images, ``0..1``, 2 * 3.\n\nMore *of* it.")
        == "Masks of other images, 0..1, 2 * 3."
    )
