"""How a conversion is asked for, interrupted, gone on with, and refused."""

import copy
import json
import shutil

import pytest
import torch
from own_code import add_full, add_lora, add_stage_1, in_file, random_projector, settings, write
from safetensors import safe_open
from safetensors.torch import load_file

import interp
from interp.cli import main
from interp.models._folder import CheckpointMismatch
from interp.models._original import convert as module
from interp.models._original.convert import convert
from interp.models._original.layout import OriginalLayout
from interp.models._original.parts import parts_of
from interp.models._original.weights import Weights

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.fixture
def run(parts, tmp_path):
    """A stage-1 folder that a test may harm."""
    add_stage_1(parts, tmp_path / "run")
    return tmp_path / "run"


def change(folder, **settings):
    path = folder / "config.json"
    given = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in given.items() if value != "absent"}))


# How it is asked for


def test_the_command_says_the_space_it_needs_converts_and_finds_its_work_done(parts, run, tmp_path, capsys):
    for part in ("vicuna", "clip"):
        shutil.copytree(parts.folder / part, tmp_path / part)
    change(run, _name_or_path="/elsewhere/vicuna", mm_vision_tower="/elsewhere/clip")
    options = ["--language-model", str(tmp_path / "vicuna"), "--clip", str(tmp_path / "clip")]
    assert main(["convert", "llava", str(run), str(tmp_path / "out"), *options]) == 0
    told = capsys.readouterr()
    assert "GB are written to" in told.err and "free there" in told.err and "interp.load" in told.out
    stamp = (tmp_path / "out/model.safetensors").stat().st_mtime_ns
    assert main(["convert", "llava", str(run), str(tmp_path / "out"), *options]) == 0
    assert "there already, made of the same files" in capsys.readouterr().err
    assert (tmp_path / "out/model.safetensors").stat().st_mtime_ns == stamp
    torch.save(in_file(random_projector(seed=8)), run / "mm_projector.bin")
    assert main(["convert", "llava", str(run), str(tmp_path / "out"), *options]) == 2
    assert "holds something else" in capsys.readouterr().err
    shutil.rmtree(run)
    shutil.rmtree(tmp_path / "vicuna")  # the folder stands alone
    assert interp.load(tmp_path / "out").layers == 2


def test_options_of_difflmm_are_refused_for_llava(run, tmp_path, capsys):
    for option in (["--normalisation", "paper"], ["--diffusion", "sd"]):
        assert main(["convert", "llava", str(run), str(tmp_path / "out"), *option]) == 2
        assert f"{option[0]} is of DiffLMM" in capsys.readouterr().err


def test_a_killed_conversion_goes_on_at_the_file_where_it_was(run, tmp_path, monkeypatch):
    wanted = convert(run, tmp_path / "whole", shard=40_000)
    files = sorted(path.name for path in wanted.glob("*.safetensors"))
    assert len(files) > 3
    real, written = module.save_file, []

    def killed(tensors, path, metadata):
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path.name)
        real(tensors, path, metadata)

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(run, tmp_path / "out", shard=40_000)
    assert not (tmp_path / "out").exists()
    again = []
    monkeypatch.setattr(module, "save_file", lambda t, path, metadata: again.append(1) or real(t, path, metadata))
    convert(run, tmp_path / "out", shard=40_000)
    assert len(again) == len(files) - 2 and not list(tmp_path.glob(".*"))
    for path in wanted.iterdir():
        assert (tmp_path / "out" / path.name).read_bytes() == path.read_bytes()
    got, whole = (interp.load(tmp_path / name).model.state_dict() for name in ("out", "whole"))
    assert all(torch.equal(value, whole[name]) for name, value in got.items())


def test_what_was_finished_of_other_files_is_not_gone_on_with(run, tmp_path, monkeypatch):
    real = module.save_file

    def killed(tensors, path, metadata):
        real(tensors, path, metadata)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        convert(run, tmp_path / "out")
    torch.save(in_file(random_projector(seed=8)), run / "mm_projector.bin")
    monkeypatch.setattr(module, "save_file", real)
    convert(run, tmp_path / "out")
    stored = load_file(tmp_path / "out/model.safetensors")
    assert torch.equal(stored["model.multi_modal_projector.linear_1.weight"], random_projector(seed=8)[0].weight)


def test_no_more_than_a_file_is_in_memory_at_a_time(run, tmp_path, monkeypatch):
    """7B in half precision are 14 GB: neither the whole source nor the whole result may be held."""
    sizes, real = [], module.save_file

    def watched(tensors, path, metadata):
        sizes.append(sum(t.numel() * t.element_size() for t in tensors.values()))
        real(tensors, path, metadata)

    monkeypatch.setattr(module, "save_file", watched)
    convert(run, tmp_path / "out", shard=60_000)
    assert max(sizes) <= 60_000 and len(sizes) > 2


def test_too_little_space_is_said_before_anything_is_written(run, tmp_path, monkeypatch):
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10, 10, 1000))
    with pytest.raises(OSError, match=r"too little space: 0.00 GB are written to .*out; 0.00 GB are free"):
        convert(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]


def test_precision_is_the_language_models_or_the_one_asked_for(parts, run, tmp_path):
    convert(run, tmp_path / "half", dtype=torch.float16)
    assert {v.dtype for v in load_file(tmp_path / "half/model.safetensors").values()} == {torch.float16}
    assert interp.load(tmp_path / "half", dtype="auto").model.dtype == torch.float16
    language = {name: value.to(torch.bfloat16) for name, value in parts.llama().state_dict().items()}
    write(tmp_path / "vicuna", language, json.loads((parts.folder / "vicuna/config.json").read_text()))
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(parts.folder / "vicuna" / name, tmp_path / "vicuna")
    convert(run, tmp_path / "out", str(tmp_path / "vicuna"))
    with safe_open(tmp_path / "out/model.safetensors", "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"BF16"}  # noqa: SIM118


def test_a_lora_run_over_a_whole_llava_takes_its_own_projector(parts, tmp_path):
    """Training for a task begins at a finished LLaVA, whose projector is trained on."""
    llama, _ = add_full(parts, tmp_path / "base", seed=3)
    _, projector = add_lora(parts, tmp_path / "run", seed=4)
    model = interp.load(convert(tmp_path / "run", tmp_path / "out", str(tmp_path / "base"))).model
    assert torch.equal(model.model.multi_modal_projector.linear_2.weight, projector[2].weight)
    rows = model.model.language_model.embed_tokens.weight[: parts.vocabulary]
    assert torch.equal(rows, llama.model.embed_tokens.weight)


def test_a_tied_output_layer_is_written_out(parts, run, tmp_path):
    language = {name: value for name, value in parts.llama().state_dict().items() if name != "lm_head.weight"}
    about = json.loads((parts.folder / "vicuna/config.json").read_text())
    write(tmp_path / "vicuna", language, about | {"tie_word_embeddings": True})
    for name in ("tokenizer.model", "tokenizer_config.json"):
        shutil.copy(parts.folder / "vicuna" / name, tmp_path / "vicuna")
    with pytest.raises(OriginalLayout, match=r"missing weights: lm_head.weight"):
        convert(run, tmp_path / "out", str(tmp_path / "vicuna"))
    change(run, tie_word_embeddings=True)
    model = interp.load(convert(run, tmp_path / "out", str(tmp_path / "vicuna"))).model
    assert torch.equal(model.lm_head.weight, model.model.language_model.embed_tokens.weight)


# What it refuses


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"mm_projector_type": "mlp3x_gelu"}, "mm_projector_type 'mlp3x_gelu'.*expected 'mlp2x_gelu' or 'linear'"),
        ({"image_aspect_ratio": "anyres"}, "image_aspect_ratio 'anyres'.*expected 'pad' or 'square'"),
        ({"mm_vision_select_feature": "cls"}, "mm_vision_select_feature 'cls'"),
        ({"mm_vision_select_layer": [-2, -5]}, r"mm_vision_select_layer \[-2, -5\] \(expected one layer"),
        ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type 'spatial_unpad'"),
        ({"mm_use_im_start_end": True}, "mm_use_im_start_end True"),
        ({"model_type": "llava_mistral"}, "model_type 'llava_mistral'.*expected 'llava' or 'llava_llama'"),
        ({"architectures": ["LlavaQwenForCausalLM"]}, r"architectures \['LlavaQwenForCausalLM'\]"),
        ({"mm_resampler_type": "qformer"}, r"mm_resampler_type 'qformer' \(expected none\)"),
        ({"s2": True}, r"s2 True"),
        ({"mm_spatial_pool_stride": 2}, r"mm_spatial_pool_stride 2 \(not known here\)"),
    ],
)
def test_what_has_no_counterpart_is_refused_by_name(run, tmp_path, settings, message):
    change(run, **settings)
    with pytest.raises(OriginalLayout, match=message):
        convert(run, tmp_path / "out")
    with pytest.raises(OriginalLayout, match=f"of a kind that cannot be converted: .*{message}"):
        interp.load(run)


def test_another_language_model_or_vision_tower_is_refused_by_name(parts, run, tmp_path):
    def place(name, **about):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(about))
        return str(tmp_path / name)

    for language, message in [
        (place("mpt", model_type="mpt"), "mpt is a mpt; expected a Llama such as Vicuna"),
        (place("empty", model_type="llama"), "holds no weights of a whole model"),
        (str(tmp_path / "nothing"), "nothing, which is not here and not to be had from the hub; .*--language-model"),
    ]:
        with pytest.raises(OriginalLayout, match=message):
            convert(run, tmp_path / "out", language)
    for clip, message in [
        (place("siglip", model_type="siglip"), "holds no weights; name CLIP with --clip"),
        (str(tmp_path / "nothing"), "is not here and not to be had from the hub"),
    ]:
        with pytest.raises(OriginalLayout, match=message):
            convert(run, tmp_path / "out", clip=clip)
    shutil.copytree(parts.folder / "clip", tmp_path / "other")
    place("other", model_type="siglip")
    with pytest.raises(OriginalLayout, match=r"vision tower .*other is a siglip; expected a CLIP"):
        convert(run, tmp_path / "out", clip=str(tmp_path / "other"))
    change(run, _name_or_path="absent")
    with pytest.raises(OriginalLayout, match=r"does not say what language model it was trained on"):
        convert(run, tmp_path / "out")
    (run / "config.json").rename(run / "kept.json")
    for source, message in [
        (parts.folder / "vicuna", "expected mm_vision_tower"),
        (run, "it has no config.json; copy that of the run"),
        ("nobody/nothing", "it is no folder, and not to be had from the hub"),
        (
            place("difflmm", model_type="llava_llama", mm_vision_sd_timestep=100),
            "is a DiffLMM; run interp convert difflmm",
        ),
        (place("hf", model_type="llava", vision_config={"a": 1}), "it is in transformers' layout; load it as it is"),
    ]:
        with pytest.raises(OriginalLayout, match=rf"is not in the original LLaVA layout: .*{message}"):
            convert(source, tmp_path / "out")


def test_files_that_are_missing_damaged_or_of_another_size_are_named(parts, run, tmp_path):
    projector = torch.load(run / "mm_projector.bin")
    torch.save({k: v for k, v in projector.items() if "2.bias" not in k}, run / "mm_projector.bin")
    with pytest.raises(OriginalLayout, match=r"missing weights: model.multi_modal_projector.linear_2.bias"):
        convert(run, tmp_path / "out")
    torch.save({k: v[:-1] for k, v in projector.items()}, run / "mm_projector.bin")
    with pytest.raises(OriginalLayout, match=r"other shapes .*linear_1.bias \(31,\) for \(32,\)"):
        convert(run, tmp_path / "out")
    torch.save({**projector, "model.extra.weight": torch.ones(1)}, run / "mm_projector.bin")
    with pytest.raises(OriginalLayout, match=r"weights left over: model.extra.weight in mm_projector.bin"):
        convert(run, tmp_path / "out")
    torch.save({k: v * torch.nan for k, v in projector.items()}, run / "mm_projector.bin")
    with pytest.raises(OriginalLayout, match=r"NaN or infinity in model.multi_modal_projector"):
        convert(run, tmp_path / "out")
    torch.save(projector, run / "mm_projector.bin")
    change(run, mm_projector_type="linear")
    with pytest.raises(OriginalLayout, match=r"mm_projector_type is linear, and the projector has two layers"):
        convert(run, tmp_path / "out")
    (run / "mm_projector.bin").write_bytes(b"PK\3\4 cut off")
    with pytest.raises(CheckpointMismatch, match=r"mm_projector.bin is damaged"):
        convert(run, tmp_path / "out")
    (run / "mm_projector.bin").unlink()
    with pytest.raises(OriginalLayout, match=r"holds no weights: expected adapter_config.json with non_lora"):
        convert(run, tmp_path / "out")


def test_a_lora_run_without_the_projector_it_trained_is_refused(parts, tmp_path):
    add_lora(parts, tmp_path / "run")
    (tmp_path / "run/non_lora_trainables.bin").unlink()
    with pytest.raises(OriginalLayout, match=r"an adapter and no non_lora_trainables.bin: .*only at its end"):
        convert(tmp_path / "run", tmp_path / "out")


def test_a_vision_tower_that_was_trained_must_be_there(parts, tmp_path):
    add_full(parts, tmp_path / "run", unfreeze_mm_vision_tower=True)
    with pytest.raises(OriginalLayout, match=r"vision tower that was trained"):
        convert(tmp_path / "run", tmp_path / "out")
    _, projector = add_lora(parts, tmp_path / "lora", unfreeze_mm_vision_tower=True)
    eyes = "base_model.model.model.vision_tower.vision_tower.vision_model."
    layer = {"encoder.layers.1.mlp.fc1.bias": torch.full((32,), 7.0)}
    trained = {**in_file(projector, "base_model.model.model.mm_projector."), **{eyes + k: v for k, v in layer.items()}}
    torch.save(trained, tmp_path / "lora/non_lora_trainables.bin")
    tower = interp.load(convert(tmp_path / "lora", tmp_path / "out")).model.model.vision_tower.state_dict()
    assert all(torch.equal(tower[k], layer.get(k, v)) for k, v in parts.clip.state_dict().items())


# What is said where a converted folder was expected


@pytest.mark.parametrize("layout", ["full", "lora", "stage 1", "checkpoint of a run"])
def test_loading_the_original_layout_says_what_to_run_before_anything_is_built(parts, tmp_path, layout, monkeypatch):
    run = tmp_path / "run"
    {"full": add_full, "lora": add_lora, "stage 1": add_stage_1, "checkpoint of a run": add_lora}[layout](parts, run)
    if layout == "checkpoint of a run":  # there the trainer saves no config.json
        shutil.copytree(run, run / "checkpoint-5", ignore=shutil.ignore_patterns("config.json"))
        run = run / "checkpoint-5"
    for name in ("torch.nn.Linear.__init__", "torch.load", "safetensors.safe_open"):
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("something was built or read"))
    from interp.models._load import check_place

    for call in (interp.load, check_place):
        with pytest.raises(OriginalLayout, match=rf"original LLaVA layout; run interp convert llava {run} OUT"):
            call(str(run))


def test_wrapping_a_model_of_the_original_code_says_what_to_run(parts):
    from transformers import LlamaForCausalLM

    class LlavaLlamaForCausalLM(LlamaForCausalLM):
        pass

    model = LlavaLlamaForCausalLM(copy.deepcopy(parts.text))
    for name, value in settings(parts).items():
        if name.startswith("mm_") or name == "image_aspect_ratio":
            setattr(model.config, name, value)
    model.config.model_type = "llava_llama"
    model.config._name_or_path = "liuhaotian/llava-v1.5-7b"
    with pytest.raises(OriginalLayout, match=r"run interp convert llava liuhaotian/llava-v1.5-7b OUT"):
        interp.wrap(model, None)


def test_the_view_of_the_files_names_every_file_that_can_change_a_number(parts, tmp_path):
    add_lora(parts, tmp_path / "run")
    names = [path.name for path in Weights(parts_of(tmp_path / "run")).files]
    wanted = {"adapter_config.json", "adapter_model.bin", "non_lora_trainables.bin", "pytorch_model.bin"}
    assert set(names) == wanted | {f"pytorch_model-0000{i}-of-00002.bin" for i in (1, 2)}
