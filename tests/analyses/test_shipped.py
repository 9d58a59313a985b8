"""Another training from a shipped model's parts."""

import json

import pytest
import torch

from interp.models.difflmm import DiffLMMForConditionalGeneration
from interp.plugins import data_folder, shipped
from training import mini_llava
from training.mini_difflmm import model as difflmm
from training.parts import Log
from training.shipped import difflmm_parts, llava_parts
from training.tokenizer import load_tokenizer

pytestmark = pytest.mark.skipif("mini-difflmm" not in shipped(), reason="mini-difflmm does not ship here")


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """(work folder of both trainings, mini-llava's model and its CLIP as a training begins)."""
    work = tmp_path_factory.mktemp("training")
    llava_parts(data_folder() / "mini-llava", work, Log(work / "log.jsonl"))
    difflmm_parts(data_folder() / "mini-difflmm", work, Log(work / "log.jsonl"))
    return work, *mini_llava.assemble(work, seed=7)


def test_another_training_of_mini_llava_begins_with_the_weights_that_ship(begun):
    from transformers import AutoTokenizer, LlavaForConditionalGeneration

    work, made, clip = begun
    base = data_folder() / "mini-llava" / "base"
    ships = LlavaForConditionalGeneration.from_pretrained(base, dtype=torch.float32).state_dict()
    same = {k for k, v in made.state_dict().items() if torch.equal(v, ships[k])}
    assert {k for k in ships if k not in same} == {k for k in ships if "multi_modal_projector" in k and "weight" in k}
    assert clip.logit_scale > 2, "the text half is that of a trained CLIP"
    text = "a red cup left of the mushroom"
    assert load_tokenizer(work)(text).input_ids == AutoTokenizer.from_pretrained(base)(text).input_ids


def test_another_training_of_mini_difflmm_begins_with_the_eyes_that_ship(begun):
    work = begun[0]
    ships = DiffLMMForConditionalGeneration.from_pretrained(data_folder() / "mini-difflmm" / "base").float()
    (work / "scaling.json").write_text(json.dumps({"scaling_factor": ships.config.vae_config["scaling_factor"]}))
    made, ships = difflmm.assemble(work, work, seed=7).state_dict(), ships.state_dict()
    eyes = [k for k in ships if "multi_modal_projector" not in k]
    assert len(eyes) > 300
    assert not [k for k in eyes if not torch.equal(made[k], ships[k])]
