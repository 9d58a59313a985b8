import json
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import interp
from interp import plugins
from interp.models import _load as lmm_module
from interp.models._hf import BrokenCheckpoint
from interp.models._load import UnknownModel

PROMPT = "What is on the left?"


@pytest.fixture
def folder(tiny_llava, tmp_path):
    """A tiny LLaVA saved as a plain Hugging Face folder."""
    model, processor = tiny_llava
    model.save_pretrained(tmp_path / "plain")
    processor.save_pretrained(tmp_path / "plain")
    return tmp_path / "plain"


def rewrite(folder, change):
    path = folder / "model.safetensors"
    weights = load_file(path)
    change(weights)
    save_file(weights, path, metadata={"format": "pt"})


def test_a_loaded_folder_answers_as_the_model_that_was_saved(tiny_lmm, folder, photo):
    loaded = interp.load(folder)
    assert loaded.generate(photo, PROMPT, 8) == tiny_lmm.generate(photo, PROMPT, 8)
    assert (loaded.layers, loaded.heads, loaded.name) == (3, 4, str(folder))
    assert loaded.device.type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert not loaded.model.training


def test_bfloat16_weights_are_computed_in_float32_on_the_cpu_unless_asked(tiny_llava, folder):
    tiny_llava[0].to(torch.bfloat16).save_pretrained(folder)
    assert interp.load(folder, device="cpu").model.dtype == torch.float32
    assert interp.load(folder, device="cpu", dtype="bfloat16").model.dtype == torch.bfloat16
    assert interp.load(folder, device="cpu", dtype="auto").model.dtype == torch.bfloat16


def test_options_reach_from_pretrained(folder):
    assert interp.load(folder, attn_implementation="eager").model.config._attn_implementation == "eager"


def test_batches_answer_as_single_images_do(tiny_lmm):
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (30 + i, 50, 3), dtype=np.uint8) for i in range(3)]
    prompts = [PROMPT, "Describe the image in detail.", "A cat?"]
    together = tiny_lmm.generate_batch(images, prompts, 10)
    assert together == [tiny_lmm.generate(i, p, 10) for i, p in zip(images, prompts, strict=True)]
    assert len(set(together)) > 1 and all(together)
    assert tiny_lmm.generate_batch([], []) == []
    with pytest.raises(ValueError, match="3 images but 1 prompts"):
        tiny_lmm.generate_batch(images, [PROMPT])


def test_generation_is_greedy_and_silent_whatever_the_model_asks_for(tiny_lmm, photo, capfd):
    plain = tiny_lmm.generate(photo, PROMPT, 10)
    asked = tiny_lmm.model.generation_config
    asked.do_sample, asked.temperature, asked.top_p, asked.top_k, asked.num_beams = True, 5.0, 0.5, 7, 3
    torch.manual_seed(7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tiny_lmm.generate(photo, PROMPT, 10) == plain
    assert (asked.do_sample, asked.temperature, asked.num_beams) == (True, 5.0, 3)
    assert "generation flags" not in capfd.readouterr().err


def test_generation_leaves_a_training_model_training(tiny_lmm, photo):
    tiny_lmm.model.train()
    tiny_lmm.generate(photo, PROMPT, 2)
    assert all(m.training for m in tiny_lmm.model.modules())


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_model_can_be_wrapped_unmerged(tiny_llava, photo):
    import peft

    model, processor = tiny_llava
    before = interp.wrap(model, processor).generate(photo, PROMPT, 8)
    adapter = peft.LoraConfig(
        r=4, target_modules=r".*language_model.*\.(q_proj|v_proj|down_proj)", init_lora_weights=False
    )
    wrapped = interp.wrap(peft.get_peft_model(model, adapter), processor)
    assert wrapped.layers == 3 and wrapped.generate(photo, PROMPT, 8) != before


@pytest.mark.parametrize("key", ["model.language_model.layers.1.mlp.up_proj.weight", "lm_head.weight"])
def test_missing_weights_are_listed_not_made_up(folder, key):
    stored = {}
    rewrite(folder, lambda weights: stored.update(weights))
    name = next(k for k in stored if k.endswith(key.removeprefix("model.language_model.")))
    rewrite(folder, lambda weights: weights.pop(name))
    with pytest.raises(BrokenCheckpoint, match=f"lacks 1 .*{key.removeprefix('model.language_model.')}"):
        interp.load(folder)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_no_numbers_are_named(folder, bad):
    def spoil(weights):
        weights[next(k for k in weights if k.endswith("layers.2.self_attn.k_proj.weight"))][0, 0] = bad

    rewrite(folder, spoil)
    with pytest.raises(BrokenCheckpoint, match=r"NaN or infinity in .*layers\.2\.self_attn\.k_proj\.weight;"):
        interp.load(folder)


def test_an_unknown_name_says_where_it_was_looked_for(folder, monkeypatch, tmp_path):
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    with pytest.raises(
        UnknownModel, match=r"'nobody/nothing' is no folder .* no shipped model \(none here: INTERP_DATA\).* hub"
    ):
        interp.load("nobody/nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UnknownModel, match="holds no model"):
        interp.load(tmp_path / "empty")


def test_a_model_type_without_a_family_says_which_there_are(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config["text_config"] | {"model_type": "llama"}))
    with pytest.raises(plugins.UnknownName, match=r"model_type 'llama'; there are: .*difflmm, .*llava, llava_next"):
        interp.load(folder)


def test_shipped_models_load_by_name_with_the_last_checkpoint(tiny_llava, tmp_path, monkeypatch, photo):
    model, processor = tiny_llava
    monkeypatch.setenv("INTERP_DATA", str(tmp_path))
    model.save_pretrained(tmp_path / "toy" / "base")
    processor.save_pretrained(tmp_path / "toy" / "base")
    assert lmm_module.shipped() == ["toy"]
    projector = {k: v for k, v in model.state_dict().items() if "projector" in k}
    for step in (2, 10):
        (tmp_path / "toy" / f"checkpoint-{step}").mkdir()
        changed = {k: v + step for k, v in projector.items()}
        save_file(changed, tmp_path / "toy" / f"checkpoint-{step}" / "projector.safetensors")

    def shift(name):
        got = interp.load(name).model.state_dict()
        return {round((got[k] - v).mean().item(), 3) for k, v in projector.items()}

    assert shift("toy") == {10.0}  # the last step, not the last name
    assert shift("toy/checkpoint-2") == {2.0}
    assert shift("toy/base") == {0.0}
    assert shift(tmp_path / "toy" / "checkpoint-10") == {10.0}
    with pytest.raises(UnknownModel, match="no checkpoint 'checkpoint-3'; there are: checkpoint-2, checkpoint-10"):
        interp.load("toy/checkpoint-3")


def test_a_family_is_found_for_every_shipped_model():
    for name in lmm_module.shipped():
        config = json.loads((lmm_module.data_folder() / name / "base" / "config.json").read_text())
        assert config["model_type"] in plugins.names("models")
