import copy

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

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
