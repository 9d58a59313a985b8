import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp.models import _overlay as checkpoints
from interp.models._overlay import CheckpointMismatch

# PEFT asks transformers under a name that it has given up; checkpoints.py hides that from its users, these tests train.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def projector_of(model):
    return {k: v.clone() for k, v in model.state_dict().items() if "multi_modal_projector" in k}


def train(model, folder, home="language_model", **options):
    """Saves a checkpoint as training would: changed projector and adapter. Returns the model with both, unmerged."""
    trained = copy.deepcopy(model)
    for part in trained.model.multi_modal_projector.parameters():
        part.data += 0.1
    folder.mkdir(parents=True)
    save_file(projector_of(trained), folder / "projector.safetensors")
    torch.manual_seed(1)
    if home == "language_model":
        options = {"target_modules": "all-linear"} | options
        part = peft.get_peft_model(
            trained.model.language_model, peft.LoraConfig(r=4, init_lora_weights=False, **options)
        )
        part.save_pretrained(folder)
    elif home == "whole":
        options = {"target_modules": r".*language_model.*_proj"} | options
        part = peft.get_peft_model(trained, peft.LoraConfig(r=4, init_lora_weights=False, **options))
        part.save_pretrained(folder)
    return trained


def logits(model):
    ids = torch.tensor([[1, 20, 30, 25, 40]])
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits


def test_checkpoints_are_found_in_the_order_of_their_steps(tmp_path):
    for step in (100, 9, 20):
        (tmp_path / f"checkpoint-{step}").mkdir()
        save_file({"a": torch.zeros(1)}, tmp_path / f"checkpoint-{step}" / "projector.safetensors")
    save_file({"a": torch.zeros(1)}, tmp_path / "checkpoint-100" / "adapter_model.safetensors")
    (tmp_path / "base").mkdir()
    (tmp_path / "checkpoint-last").mkdir()
    found = checkpoints.find(tmp_path)
    assert [(c.step, c.kind) for c in found] == [(9, "projector"), (20, "projector"), (100, "adapter")]
    with pytest.raises(FileNotFoundError, match="no folder"):
        checkpoints.find(tmp_path / "nowhere")
    (tmp_path / "checkpoint-3").mkdir()
    with pytest.raises(FileNotFoundError, match=r"checkpoint-3 holds no projector\.safetensors"):
        checkpoints.find(tmp_path)


@pytest.mark.parametrize("home", ["none", "language_model", "whole"])
def test_an_overlaid_model_computes_what_the_trained_one_did(tiny_llava, tmp_path, home):
    model, _ = tiny_llava
    trained = train(model, tmp_path / "checkpoint-5", home)
    before, names = logits(model), list(model.state_dict())
    (checkpoint,) = checkpoints.find(tmp_path)
    assert checkpoints.overlay(model, checkpoint) is model
    torch.testing.assert_close(logits(model), logits(trained), atol=1e-5, rtol=1e-5)
    assert torch.equal(logits(model), before) == (home == "none")
    assert all(torch.equal(v, projector_of(trained)[k]) for k, v in projector_of(model).items())
    assert list(model.state_dict()) == names and not hasattr(model.model.language_model, "peft_config")
    assert not hasattr(model, "peft_config") and not any("lora" in n for n, _ in model.named_modules())


def spoiled(folder, name, change):
    weights = load_file(folder / name)
    change(weights)
    save_file(weights, folder / name)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("projector", lambda w: w.pop("model.multi_modal_projector.linear_1.bias"), "missing keys: .*linear_1.bias"),
        ("projector", lambda w: w.update({"other.weight": torch.zeros(2)}), "unexpected keys: other.weight"),
        (
            "projector",
            lambda w: w.update({"model.multi_modal_projector.linear_1.bias": torch.zeros(2)}),
            "other shapes",
        ),
        ("projector", lambda w: w.clear(), "it is empty"),
        ("adapter_model", lambda w: w.pop(sorted(w)[0]), "missing keys: .*lora_A"),
        (
            "adapter_model",
            lambda w: w.update({"base_model.model.layers.7.x.lora_A.weight": torch.zeros(2, 2)}),
            "layers.7.x",
        ),
    ],
)
def test_keys_that_do_not_fit_are_listed_and_the_model_stays_as_it_was(tiny_llava, tmp_path, name, change, message):
    model, _ = tiny_llava
    train(model, tmp_path / "checkpoint-5")
    spoiled(tmp_path / "checkpoint-5", f"{name}.safetensors", change)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match=message):
        checkpoints.overlay(model, checkpoints.find(tmp_path)[0])
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(v, after[k]) for k, v in before.items())


def test_an_adapter_is_merged_in_full_precision(tiny_llava, tmp_path):
    model, _ = tiny_llava
    model.to(torch.bfloat16)
    exact = copy.deepcopy(model).float()
    train(exact, tmp_path / "checkpoint-5")
    (checkpoint,) = checkpoints.find(tmp_path)
    checkpoints.overlay(model, checkpoint)
    checkpoints.overlay(exact, checkpoint)
    assert model.dtype == torch.bfloat16
    name = "model.language_model.layers.0.mlp.up_proj.weight"
    assert torch.equal(model.state_dict()[name], exact.state_dict()[name].to(torch.bfloat16))


def base_beside(model, processor, folder):
    model.save_pretrained(folder / "base")
    processor.save_pretrained(folder / "base")


def adapter_on(model, folder, init=True, **options):
    """An adapter as PEFT saves it after training; returns PEFT's own model."""
    options = {"r": 4, "lora_alpha": 8, "target_modules": r".*language_model.*(q_proj|v_proj)"} | options
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(init_lora_weights=init, **options))
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_" in name:
            weight.data += 0.05 * torch.randn_like(weight)
    adapted.save_pretrained(folder)
    return adapted.eval()


def through_series(folder):
    """Logits of each sound checkpoint, and why the others were left out."""
    found = interp.series(folder)
    lmm = found.load(dtype="float32")
    with found.swap(lmm) as swap:
        return [logits(lmm.model) for _ in swap], swap.skipped


@pytest.mark.parametrize("init", [True, "gaussian", "orthogonal", "pissa", "olora", "pissa_niter_4", "lora_ga", "new"])
def test_an_adapter_that_changed_its_base_gives_what_peft_gives_or_is_refused(tiny_llava, tmp_path, init):
    base_beside(*tiny_llava, tmp_path)
    refused = init in ("pissa_niter_4", "lora_ga", "new")
    adapted = adapter_on(tiny_llava[0], tmp_path / "checkpoint-1", True if refused else init)
    if refused:  # as saved by a version that knows it, or after data were looked at
        change_config(tmp_path / "checkpoint-1", init_lora_weights=init)
        with pytest.raises(CheckpointMismatch, match=f"init_lora_weights='{init}'"):
            interp.load(tmp_path / "checkpoint-1")
    else:
        torch.testing.assert_close(logits(interp.load(tmp_path / "checkpoint-1").model), logits(adapted))
    seen, skipped = through_series(tmp_path)
    if init in (True, "gaussian", "orthogonal"):
        torch.testing.assert_close(seen, [logits(adapted)])
    else:
        assert not seen and f"init_lora_weights='{init}'" in skipped[1]


def change_config(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    "changes", [{"peft_type": ["LORA"]}, {"peft_type": "FOO"}, {"target_modules": None}, {"modules_to_save": 3}]
)
def test_settings_of_an_adapter_that_make_no_sense_are_named(tiny_llava, tmp_path, changes):
    base_beside(*tiny_llava, tmp_path)
    adapter_on(tiny_llava[0], tmp_path / "checkpoint-1")
    change_config(tmp_path / "checkpoint-1", **changes)
    with pytest.raises(CheckpointMismatch, match=r"adapter_config\.json"):
        interp.load(tmp_path / "checkpoint-1")


def test_a_setting_that_nobody_knows_yet_is_not_taken_for_plain(tiny_llava, tmp_path):
    base_beside(*tiny_llava, tmp_path)
    adapter_on(tiny_llava[0], tmp_path / "checkpoint-1")
    change_config(tmp_path / "checkpoint-1", squared=False, twisted=None)
    assert len(through_series(tmp_path)[0]) == 1
    change_config(tmp_path / "checkpoint-1", squared=True)
    assert "squared=True" in through_series(tmp_path)[1][1]


def test_an_adapter_that_peft_cannot_place_leaves_the_model_as_it_was(tiny_llava, tmp_path):
    model, _ = tiny_llava
    adapter_on(model, tmp_path / "checkpoint-1", "pissa")
    save_file(projector_of(model), tmp_path / "checkpoint-1" / "projector.safetensors")
    spoiled(tmp_path / "checkpoint-1", "adapter_model.safetensors", lambda w: w.pop(sorted(w)[0]))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointMismatch, match="missing keys"):
        checkpoints.overlay(model, checkpoints.find(tmp_path)[0])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize("file", ["non_lora_trainables.bin", "mm_projector.bin"])
@pytest.mark.parametrize("adapter", [True, False])
def test_a_projector_that_llavas_training_wrote_is_not_left_behind(tiny_llava, tmp_path, file, adapter):
    model, processor = tiny_llava
    base_beside(model, processor, tmp_path)
    for part in model.model.multi_modal_projector.parameters():
        part.data += 0.3 * torch.randn_like(part)
    adapted = adapter_on(model, tmp_path / "checkpoint-1")
    if not adapter:
        (tmp_path / "checkpoint-1" / "adapter_model.safetensors").unlink()
        (tmp_path / "checkpoint-1" / "adapter_config.json").unlink()
    prefix = "base_model.model.model." if adapter else "model."
    names = {"linear_1": "mm_projector.0", "linear_2": "mm_projector.2"}
    stored = {}
    for name, weight in projector_of(model).items():
        layer, part = name.split(".")[-2:]
        stored[f"{prefix}{names[layer]}.{part}"] = weight
    torch.save(stored, tmp_path / "checkpoint-1" / file)
    loaded = interp.load(tmp_path / "checkpoint-1").model
    with torch.no_grad():
        truth = adapted if adapter else model
        features = torch.randn(1, 4, 16)
        torch.testing.assert_close(
            loaded.model.multi_modal_projector(features), model.model.multi_modal_projector(features)
        )
    torch.testing.assert_close(logits(loaded), logits(truth))
    found = interp.series(tmp_path)
    assert "model.multi_modal_projector.linear_2.bias" in found.points[0].changes
    lmm = found.load()
    with found.swap(lmm) as swap:
        (_,) = swap
        assert all(torch.equal(v, lmm.model.state_dict()[k]) for k, v in loaded.state_dict().items())


@pytest.mark.parametrize(
    "name", ["mm_projector.safetensors", "extra.pt", "trained_weights", "other/adapter_model.safetensors", "x.npz"]
)
def test_weights_under_any_name_that_nothing_reads_are_named_not_passed_over(tiny_llava, tmp_path, name):
    base_beside(*tiny_llava, tmp_path)
    adapter_on(tiny_llava[0], tmp_path / "checkpoint-1")
    extra = tmp_path / "checkpoint-1" / name
    extra.parent.mkdir(exist_ok=True)
    save_file(projector_of(tiny_llava[0]), extra) if "." in name else torch.save(projector_of(tiny_llava[0]), extra)
    (point,) = interp.series(tmp_path).points
    assert f"weights that are not read: {name}" in point.damaged
    with pytest.raises(CheckpointMismatch, match=f"weights that are not read: {name}"):
        interp.load(tmp_path / "checkpoint-1")


def test_what_a_trainer_leaves_beside_the_weights_damages_nothing(tiny_llava, tmp_path):
    model, processor = tiny_llava
    base_beside(model, processor, tmp_path)
    adapter_on(model, tmp_path / "checkpoint-1")
    model.save_pretrained(tmp_path / "checkpoint-2")
    for folder in (tmp_path / "checkpoint-1", tmp_path / "checkpoint-2"):
        for name in ("optimizer.pt", "scheduler.pt", "rng_state_0.pth", "training_args.bin", "scaler.pt"):
            torch.save({"a": torch.zeros(2)}, folder / name)
        (folder / "global_step1").mkdir()
        torch.save({}, folder / "global_step1" / "mp_rank_00_model_states.pt")
        (folder / "trainer_state.json").write_text("{}")
    torch.save({}, tmp_path / "checkpoint-1" / "adapter_model.bin")
    torch.save({}, tmp_path / "checkpoint-2" / "pytorch_model.bin")
    assert not any(point.damaged for point in interp.series(tmp_path).points)
    interp.load(tmp_path / "checkpoint-1")


def older(folder, rename, file="adapter_model.safetensors"):
    save_file({rename(k): v for k, v in load_file(folder / file).items()}, folder / file, {"format": "pt"})


@pytest.mark.parametrize("patterns", [False, True])
def test_adapters_with_the_names_of_older_libraries_give_what_they_gave(tiny_llava, tmp_path, patterns):
    model, processor = tiny_llava
    base_beside(model, processor, tmp_path)
    options = {}
    if patterns:  # names in full, as scripts list them
        new = "model.language_model.layers.1.self_attn.q_proj"
        options = {"alpha_pattern": {new: 32}, "rank_pattern": {new: 2}, "target_modules": [new, new[:-6] + "v_proj"]}
    truth = adapter_on(model, tmp_path / "checkpoint-1", **options)
    older(tmp_path / "checkpoint-1", lambda k: k.replace("model.language_model.", "language_model.model."))
    path = tmp_path / "checkpoint-1" / "adapter_config.json"
    path.write_text(path.read_text().replace("model.language_model.layers", "language_model.model.layers"))
    projector = {k.removeprefix("model."): v + 0.1 for k, v in projector_of(model).items()}
    save_file(projector, tmp_path / "checkpoint-1" / "projector.safetensors")
    loaded = interp.load(tmp_path / "checkpoint-1").model
    torch.testing.assert_close(logits(loaded), logits(truth))
    torch.testing.assert_close(
        loaded.model.multi_modal_projector.linear_1.bias, model.model.multi_modal_projector.linear_1.bias + 0.1
    )
    torch.testing.assert_close(through_series(tmp_path)[0], [logits(truth)])


def test_a_whole_checkpoint_beside_the_base_is_loaded_as_a_series_takes_it(tiny_llava, tmp_path):
    model, processor = tiny_llava
    base_beside(model, processor, tmp_path)
    model.model.language_model.layers[0].mlp.up_proj.weight.data += 0.1
    model.save_pretrained(tmp_path / "checkpoint-10")  # without a processor, as trainers save it
    (tmp_path / "checkpoint-3").mkdir()  # still being written: costs only itself
    for place in (tmp_path, tmp_path / "checkpoint-10"):
        lmm = interp.load(place)
        assert torch.equal(logits(lmm.model), logits(model)) and lmm.processor.patch_size == 8
    assert torch.equal(through_series(tmp_path)[0][0], logits(model))
    with pytest.raises(OSError, match=r"checkpoint-3 holds no projector") as stop:
        interp.load(tmp_path / "checkpoint-3")
    assert "delete" not in str(stop.value)


@pytest.mark.parametrize(
    "lost", [["patch_size"], ["vision_feature_select_strategy"], ["num_additional_image_tokens"], []]
)
def test_processors_of_older_libraries_work_when_wrapped_too_and_stay_as_they_are(tiny_llava, photo, lost):
    model, processor = tiny_llava
    expected = interp.capture(interp.wrap(model, processor), photo, "Hi", "A dog.").attention
    old = copy.copy(processor)
    settings = lost or ["patch_size", "vision_feature_select_strategy", "num_additional_image_tokens"]
    for name in settings:
        setattr(old, name, 0 if name.startswith("num") else None)
    torch.testing.assert_close(interp.capture(interp.wrap(model, old), photo, "Hi", "A dog.").attention, expected)
    assert not any(getattr(old, name) for name in settings)


def test_a_file_that_could_run_code_is_named_without_advice_to_run_it(tmp_path):
    import pickle

    from interp.models._overlay import stored_in
    from interp.models._stored import tensors_in

    (tmp_path / "mm_projector.bin").write_bytes(pickle.dumps([print]))
    for read in (stored_in, tensors_in):
        with pytest.raises(CheckpointMismatch, match="objects other than tensors") as caught:
            read(tmp_path / "mm_projector.bin")
        assert "weights_only" not in str(caught.value)
