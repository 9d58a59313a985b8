"""A series is one model that becomes each checkpoint exactly as if it had been loaded afresh, and then itself again."""

import copy
import hashlib
import json
import os
import shutil

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp.emergence.points import digest_of
from interp.emergence.timeline import NoSeries
from interp.models._overlay import CheckpointMismatch

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def add_checkpoint(model, folder, seed, adapter=True, dtype=torch.float32, **options):
    """checkpoint-N as training leaves it: a changed projector and, after the first stage, an adapter."""
    trained = copy.deepcopy(model).float()
    generator = torch.Generator().manual_seed(seed)
    for part in trained.model.multi_modal_projector.parameters():
        part.data += 0.1 * torch.randn(part.shape, generator=generator)
    folder.mkdir(parents=True)
    projector = {k: v.to(dtype) for k, v in trained.state_dict().items() if "multi_modal_projector" in k}
    save_file(projector, folder / "projector.safetensors")
    if adapter:
        torch.manual_seed(seed)
        options = {"r": 3, "target_modules": r".*language_model.*_proj", "init_lora_weights": False} | options
        peft.get_peft_model(trained, peft.LoraConfig(**options)).save_pretrained(folder)
        path = folder / "adapter_model.safetensors"
        save_file({k: v.to(dtype) for k, v in load_file(path).items()}, path)


def add_full(model, folder, seed):
    """checkpoint-N with all weights, of which the language model's have changed."""
    trained = copy.deepcopy(model)
    generator = torch.Generator().manual_seed(seed)
    for part in trained.model.language_model.parameters():
        part.data += 0.1 * torch.randn(part.shape, generator=generator).to(part.dtype)
    trained.save_pretrained(folder)
    return trained


@pytest.fixture(scope="module")
def original(make_tiny_llava, tmp_path_factory):
    """A folder as mini-llava's: bf16 base, two projectors, two adapters."""
    folder = tmp_path_factory.mktemp("original")
    model, processor = make_tiny_llava()
    model.to(torch.bfloat16).save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")
    for step, adapter in ((0, False), (5, False), (20, True), (100, True)):
        add_checkpoint(model, folder / f"checkpoint-{step}", step, adapter, torch.bfloat16)
    return folder


@pytest.fixture
def run(original, tmp_path):
    """A copy that a test may harm."""
    shutil.copytree(original, tmp_path / "run")
    return tmp_path / "run"


def weights_of(lmm):
    return {k: v.clone() for k, v in lmm.model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) and v.dtype == b[k].dtype for k, v in a.items())


def test_what_each_checkpoint_changes_is_told_from_headers_alone(run, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", None)
    found = interp.series(run)
    assert [(p.step, p.kind, p.stage) for p in found.points] == [
        (0, "projector", "projector"),
        (5, "projector", "projector"),
        (20, "adapter", "language model"),
        (100, "adapter", "language model"),
    ]
    assert (
        all("multi_modal_projector" in name for name in found.points[0].changes) and len(found.points[0].changes) == 4
    )
    adapted = set(found.points[2].changes) - set(found.points[0].changes)
    assert len(adapted) == 3 * 7 and "model.language_model.layers.0.self_attn.q_proj.weight" in adapted
    frame = found.to_frame()
    assert list(frame.weights) == [4, 4, 25, 25] and (frame.megabytes > 0).all() and found.base == str(run / "base")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    "options", [{}, {"use_rslora": True, "alpha_pattern": {"q_proj": 5}, "rank_pattern": {"k_proj": 2}}]
)
def test_every_checkpoint_in_place_equals_a_fresh_load_bit_for_bit(run, make_tiny_llava, dtype, options):
    if options:
        add_checkpoint(make_tiny_llava()[0], run / "checkpoint-200", 7, True, torch.float32, **options)
    found = interp.series(run)
    lmm = found.load(dtype=dtype)
    before, seen = weights_of(lmm), []
    addresses = {k: v.data_ptr() for k, v in lmm.model.state_dict().items()}
    with found.swap(lmm) as swap:
        for point in [*swap, found.points[2], found.points[0]]:  # back and forth as well
            swap.to(point)
            assert same(weights_of(lmm), weights_of(interp.load(point.place, dtype=dtype))), point
            seen.append(point.step)
        assert not swap.skipped
    assert seen == [0, 5, 20, 100, *([200] if options else []), 20, 0]
    assert same(weights_of(lmm), before)
    assert {k: v.data_ptr() for k, v in lmm.model.state_dict().items()} == addresses


def test_a_model_that_stands_at_a_checkpoint_is_not_added_to_twice(run):
    """interp.load of a series gives its last checkpoint; the adapters must be added to the base nevertheless."""
    found, lmm = interp.series(run), interp.load(str(run))
    before = weights_of(lmm)
    with pytest.raises(RuntimeError, match="on purpose"), found.swap(lmm) as swap:
        for point in swap:
            assert same(weights_of(lmm), weights_of(interp.load(point.place)))
        raise RuntimeError("on purpose")
    assert same(weights_of(lmm), before)


def test_only_changed_tensors_are_read(run, monkeypatch):
    found = interp.series(run)
    lmm = found.load()
    with found.swap(lmm) as swap:
        read, real = [], type(swap._base).read
        monkeypatch.setattr(
            type(swap._base), "read", lambda self, name, dtype: read.append(name) or real(self, name, dtype)
        )
        for _ in swap:
            pass
        assert sorted(read) == sorted(found.points[-1].changes)  # each of the base's once, and no other
        read.clear()
        swap.to(found.points[2])
        assert not read


@pytest.mark.parametrize("shards", [1, 2])
def test_full_checkpoints_are_swapped_without_a_second_model(make_tiny_llava, tmp_path, shards):
    model, processor = make_tiny_llava()
    for step in (10, 20):
        folder = tmp_path / f"checkpoint-{step}"
        trained = add_full(model, folder, step)
        processor.save_pretrained(folder)
        if shards == 2:
            (folder / "model.safetensors").unlink()
            trained.save_pretrained(folder, max_shard_size="60KB")
            assert (folder / "model.safetensors.index.json").exists()
    found = interp.series(tmp_path)
    assert [p.kind for p in found.points] == ["full", "full"] and found.base == found.points[0].place
    lmm = found.load()
    with found.swap(lmm) as swap:
        for point in swap:
            assert same(weights_of(lmm), weights_of(interp.load(point.place)))
        assert not swap._pristine and not swap._came  # nothing of the model is held twice


def test_adapters_alone_are_laid_over_the_model_that_they_name(make_tiny_llava, tmp_path):
    model, processor = make_tiny_llava()
    model.save_pretrained(tmp_path / "whole")
    processor.save_pretrained(tmp_path / "whole")
    add_checkpoint(model, tmp_path / "a", 1)
    (tmp_path / "a" / "projector.safetensors").unlink()
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = str(tmp_path / "whole")
    (tmp_path / "a" / "adapter_config.json").write_text(json.dumps(config))
    found = interp.series({30: str(tmp_path / "a")})
    assert found.base == str(tmp_path / "whole") and found.points[0].step == 30
    lmm = found.load()
    merged = peft.PeftModel.from_pretrained(found.load().model, str(tmp_path / "a")).merge_and_unload().state_dict()
    with found.swap(lmm) as swap:
        for _ in swap:
            assert same(weights_of(lmm), merged)


def test_a_list_of_places_and_revisions_of_one_repository_are_series_too(run, tmp_path, monkeypatch):
    places = [str(run / "checkpoint-20"), str(run / "checkpoint-5")]
    assert [p.step for p in interp.series(places, base=run / "base").points] == [5, 20]
    assert [p.step for p in interp.series(places, steps=[1, 2], base=run / "base").points] == [1, 2]
    cache = tmp_path / "hub" / "models--org--run"
    for revision, commit in (("step5", "a" * 40), ("step100", "b" * 40)):
        (cache / "refs").mkdir(parents=True, exist_ok=True)
        (cache / "refs" / revision).write_text(commit)
        (cache / "snapshots" / commit).mkdir(parents=True)
        for file in (run / f"checkpoint-{revision.removeprefix('step')}").iterdir():
            os.symlink(file, cache / "snapshots" / commit / file.name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = interp.series("org/run", revisions=["step100", "step5"], base=run / "base")
    assert [(p.step, p.revision, p.kind) for p in found.points] == [
        (5, "step5", "projector"),
        (100, "step100", "adapter"),
    ]
    lmm = found.load()
    with found.swap(lmm) as swap:
        for point in swap:
            assert same(weights_of(lmm), weights_of(interp.load(str(run / f"checkpoint-{point.step}"))))


def test_of_a_repository_that_is_not_here_only_headers_are_fetched(run, monkeypatch):
    import huggingface_hub

    asked = []

    class Api:
        def list_repo_files(self, place, revision):
            return [path.name for path in (run / "checkpoint-100").iterdir()]

    def metadata(place, file, revision):
        asked.append((place, file, revision))
        path = run / "checkpoint-100" / file
        head = json.loads(path.read_bytes()[8 : 8 + int.from_bytes(path.read_bytes()[:8], "little")])
        head.pop("__metadata__", None)
        tensors = {
            k: huggingface_hub.utils.TensorInfo(t["dtype"], t["shape"], t["data_offsets"]) for k, t in head.items()
        }
        return huggingface_hub.utils.SafetensorsFileMetadata({}, tensors)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "parse_safetensors_file_metadata", metadata)
    (point,) = interp.series("org/far", revisions={7: "main"}, base=run / "base").points
    assert point.changes == interp.series(run).points[-1].changes and point.step == 7
    assert {file for _, file, _ in asked} == {"projector.safetensors", "adapter_model.safetensors"}


def cut(path):
    path.write_bytes(path.read_bytes()[:-10])


def poison(path):
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, path)


def drop_one(path):
    weights = load_file(path)
    weights.pop(sorted(weights)[0])
    save_file(weights, path)


@pytest.mark.parametrize(
    "file, harm, reason",
    [
        ("projector.safetensors", cut, "is damaged"),
        ("adapter_model.safetensors", cut, "is damaged"),
        ("adapter_config.json", os.remove, "half an adapter"),
        ("adapter_model.safetensors", os.remove, "half an adapter"),
        ("projector.safetensors", poison, "NaN or infinity in model.multi_modal_projector"),
        ("adapter_model.safetensors", poison, "NaN or infinity in model.language_model"),
        ("projector.safetensors", drop_one, "missing keys"),
        ("adapter_model.safetensors", drop_one, "missing keys"),
    ],
)
def test_a_damaged_checkpoint_is_skipped_with_its_reason_and_the_rest_goes_on(run, file, harm, reason):
    harm(run / "checkpoint-20" / file)
    found = interp.series(run)
    lmm = found.load()
    before, seen = weights_of(lmm), []
    with found.swap(lmm) as swap:
        for point in swap:
            assert same(weights_of(lmm), weights_of(interp.load(point.place)))
            seen.append(point.step)
        assert list(swap.skipped) == [20] and reason in swap.skipped[20]
    assert seen == [0, 5, 100] and same(weights_of(lmm), before)


def test_an_adapter_that_is_more_than_low_rank_products_is_refused_not_merged_wrongly(run, make_tiny_llava):
    add_checkpoint(make_tiny_llava()[0], run / "checkpoint-200", 3, use_dora=True)
    found = interp.series(run)
    lmm = found.load()
    with found.swap(lmm) as swap, pytest.raises(CheckpointMismatch, match="use_dora=True"):
        swap.to(found.points[-1])


def test_a_series_that_is_none_is_refused_in_clear_words(run, tmp_path):
    with pytest.raises(NoSeries, match="no folder and no shipped model"):
        interp.series(tmp_path / "nowhere")
    with pytest.raises(NoSeries, match="no folder checkpoint-N"):
        interp.series(run / "base")
    with pytest.raises(NoSeries, match="more than one checkpoint of step 3"):
        interp.series([str(run / "checkpoint-5"), str(run / "checkpoint-20")], steps=[3, 3], base=run / "base")
    with pytest.raises(NoSeries, match="2 checkpoints but 1 steps"):
        interp.series([str(run / "checkpoint-5"), str(run / "checkpoint-20")], steps=[3])
    with pytest.raises(NoSeries, match="no base"):
        interp.series([str(run / "checkpoint-5")])


def test_digests_tell_checkpoints_apart_and_outlive_a_copy(run, tmp_path):
    before = [p.digest() for p in interp.series(run).points]
    assert len(set(before)) == 4
    shutil.copytree(run, tmp_path / "copy")
    assert [p.digest() for p in interp.series(tmp_path / "copy").points] == before
    path = run / "checkpoint-5" / "projector.safetensors"
    save_file({k: v * 1.5 for k, v in load_file(path).items()}, path)
    assert [a == b.digest() for a, b in zip(before, interp.series(run).points, strict=True)] == [
        True,
        False,
        True,
        True,
    ]


def test_two_large_checkpoints_that_differ_in_one_byte_never_share_their_scores(tmp_path, monkeypatch):
    path = tmp_path / "model.safetensors"
    with open(path, "wb") as file:
        file.truncate(70 << 20)  # zeros: large files were sampled
    before, about = digest_of([path]), path.stat()
    with open(path, "r+b") as file:
        file.seek((31 << 20) + 12345)
        file.write(b"1")
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns))  # as rsync and cp -p leave it
    after = digest_of([path])
    assert after != before
    expected = hashlib.sha256(f"{path.name} {70 << 20}\n".encode() + path.read_bytes()).hexdigest()
    assert after == expected
    monkeypatch.setattr("builtins.open", None)
    assert digest_of([path]) == after  # not read twice
