"""A run of LLaVA's own training is followed over its checkpoints as if each had been converted."""

import shutil

import pandas as pd
import pytest
import torch
from own_code import add_full, add_lora, add_stage_1, settings
from planted import scenes

import interp
from interp.emergence.timeline import NoSeries
from interp.models._original.convert import convert

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
KINDS = {"lora": (add_lora, "adapter"), "stage 1": (add_stage_1, "projector"), "full": (add_full, "full")}


def add_run(parts, folder, layout, **about):
    for step in (3, 12):
        KINDS[layout][0](parts, folder / f"checkpoint-{step}", seed=step, **about)
    return folder


def weights_of(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(value, b[name]) for name, value in a.items())


@pytest.mark.parametrize("projector", ["mlp2x_gelu", "linear"])
@pytest.mark.parametrize("layout", KINDS)
def test_each_checkpoint_in_place_is_the_converted_one_bit_for_bit(parts, tmp_path, layout, projector):
    run = add_run(parts, tmp_path / "run", layout, projector=projector)
    found = interp.series(run)
    assert [(p.step, p.kind, p.damaged) for p in found.points] == [(s, KINDS[layout][1], "") for s in (3, 12)]
    first = str(run / "checkpoint-3")
    assert found.base == (first if layout == "full" else str(parts.folder / "vicuna"))
    lmm = found.load()
    came, seen = weights_of(lmm.model), []
    with found.swap(lmm) as swap:
        for point in [*swap, found.points[0]]:
            swap.to(point)
            fresh = interp.load(convert(point.place, tmp_path / f"out-{point.step}"))
            assert same(weights_of(lmm.model), weights_of(fresh.model)), point
            seen.append(weights_of(lmm.model))
        assert not swap.skipped
    assert same(weights_of(lmm.model), came) and not same(seen[0], seen[1]) and same(seen[0], seen[2])


@pytest.mark.parametrize("layout", ["lora", "stage 1"])
def test_a_converted_base_serves_too(parts, tmp_path, layout):
    run = add_run(parts, tmp_path / "run", layout)
    add_stage_1(parts, tmp_path / "start", seed=50)
    convert(tmp_path / "start", run / "base")
    found = interp.series(run)
    lmm = found.load()
    with found.swap(lmm) as swap:
        for point in swap:
            fresh = interp.load(convert(point.place, tmp_path / f"out-{point.step}")).model
            assert same(weights_of(lmm.model), weights_of(fresh)), point
        assert not swap.skipped
    last = interp.load(tmp_path / "out-12").model
    assert same(weights_of(interp.load(run / "checkpoint-12").model), weights_of(last))


def test_a_projector_beside_a_whole_checkpoint_is_not_taken_for_it(parts, tmp_path):
    """The first stage's projector lies beside the published weights."""
    _, projector = add_full(parts, tmp_path / "run/checkpoint-3", seed=3)
    found = interp.series(tmp_path / "run")
    assert (tmp_path / "run/checkpoint-3/mm_projector.bin").is_file() and found.points[0].kind == "full"
    assert torch.equal(found.load().model.model.multi_modal_projector.linear_1.weight, projector[0].weight)


def test_the_first_stage_lies_over_vicuna_though_a_whole_checkpoint_follows(parts, tmp_path):
    """LLaVA-1.5 itself: a projector over Vicuna, images cut; then all weights, images padded."""
    add_stage_1(parts, tmp_path / "first", seed=3, aspect="square")
    add_full(parts, tmp_path / "second", seed=4)
    found = interp.series({0: str(tmp_path / "first"), 100: str(tmp_path / "second")})
    assert found.base == str(parts.folder / "vicuna")
    lmm = found.load()
    assert lmm.processor.image_processor.do_pad
    with found.swap(lmm) as swap:
        for point in swap:
            fresh = interp.load(convert(point.place, tmp_path / f"out-{point.step}")).model
            assert same(weights_of(lmm.model), weights_of(fresh)), point
        assert not swap.skipped


def test_an_adapter_without_its_projector_is_named_and_left_out(parts, tmp_path):
    """LLaVA's trainer writes non_lora_trainables.bin only at the end: the base's projector would be another model."""
    run = add_run(parts, tmp_path / "run", "lora")
    (run / "checkpoint-3/config.json").rename(run / "config.json")
    (run / "checkpoint-3/non_lora_trainables.bin").unlink()
    found = interp.series(run)
    assert "holds an adapter and no non_lora_trainables.bin" in found.points[0].damaged
    assert [p.step for p in found.sound] == [12] and found.load().layers == 2


def test_a_run_whose_language_model_is_nowhere_says_so(parts, tmp_path):
    run = add_run(parts, tmp_path / "run", "stage 1", _name_or_path="/elsewhere/vicuna")
    with pytest.raises(LookupError, match=r"/elsewhere/vicuna"):
        interp.series(run).load()
    assert interp.series(run, base=parts.folder / "vicuna").load().layers == 2
    for step in (3, 12):
        path = run / f"checkpoint-{step}/config.json"
        path.write_text(path.read_text().replace("_name_or_path", "name"))
    with pytest.raises(NoSeries, match=r"give base=FOLDER"):
        interp.series(run)


def test_options_that_need_a_folder_are_refused_with_the_way_out(parts, tmp_path):
    found = interp.series(add_run(parts, tmp_path / "run", "stage 1"))
    with pytest.raises(TypeError, match=r"device_map: not for a LLaVA .* run interp convert llava"):
        found.load(device_map="auto")


def test_a_series_in_the_original_layout_is_measured_as_the_same_one_converted(parts, tmp_path):
    run, made = add_run(parts, tmp_path / "run", "lora"), tmp_path / "made"
    for step in (3, 12):
        convert(run / f"checkpoint-{step}", made / f"checkpoint-{step}")
    tables = []
    for folder in (run, made):
        found = interp.series(folder)
        result = interp.emerge(found.load(), found, scenes(4), ["pointing_game"], examples=0, progress=False)
        tables.append(result.tables.heads)
        assert result.computed == 2 and not result.skipped
    pd.testing.assert_frame_equal(*(table.drop(columns="stage") for table in tables))
    assert tables[0].groupby("step")["mean"].mean().nunique() == 2


def test_every_byte_of_the_base_is_in_the_key_of_stored_work(parts, tmp_path):
    run = add_run(parts, tmp_path / "run", "lora")
    shutil.copytree(parts.folder / "vicuna", tmp_path / "vicuna")
    found = interp.series(run, base=tmp_path / "vicuna")
    names = {path.parent.name + "/" + path.name for path in found.base_files()}
    assert {"vicuna/pytorch_model-00001-of-00002.bin", "vicuna/pytorch_model-00002-of-00002.bin"} <= names
    assert "clip/pytorch_model.bin" in names and settings(parts)["mm_vision_tower"].endswith("clip")
