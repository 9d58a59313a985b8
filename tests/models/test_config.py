"""A model's folder is read with a check: a file that is wrong is named with what it holds, before anything is built."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoProcessor

import interp
from interp.models import _config, llava
from interp.models._described import check_model

DEEP = "[" * 100_000


@pytest.fixture
def folder(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture
def built_for_nothing(monkeypatch):
    for kind in (AutoProcessor, llava.LlavaForConditionalGeneration):
        monkeypatch.setattr(kind, "from_pretrained", lambda *a, **k: pytest.fail("built a model for nothing"))


def change(path, **fields):
    """The object in the file with other fields; a name with a dot lies a level deeper."""
    found = json.loads(path.read_text())
    for name, value in fields.items():
        *outer, last = name.split("__")
        place = found
        for key in outer:
            place = place[key]
        place[last] = value
    path.write_text(json.dumps(found))


JSON = (
    "config.json",
    "generation_config.json",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@pytest.mark.parametrize("file", JSON)
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "it is empty"),
        (b"null", "holds null"),
        (b"[1]", "holds a list"),
        (b'"x"', "holds a text"),
        (b"3", "holds a number"),
        (b'{"a', "is not JSON"),
        (b"\xff\xfe\x00\x81garbage", "is not JSON"),
        (DEEP.encode(), "nested deeper"),
    ],
    ids=["empty", "null", "list", "text", "number", "cut", "garbage", "deep"],
)
def test_every_file_of_settings_that_is_no_object_is_named(folder, built_for_nothing, file, content, told):
    (folder / file).write_bytes(content)
    with pytest.raises(_config.BrokenConfig, match=f"{file}.*{told}"):
        interp.load(str(folder))


@pytest.mark.parametrize("file", ["config.json", "processor_config.json", "tokenizer.json", "model.safetensors"])
def test_a_folder_or_a_dangling_link_in_place_of_a_file_is_named(folder, built_for_nothing, file):
    (folder / file).unlink()
    (folder / file).symlink_to("/nonexistent/file") if file == "model.safetensors" else (folder / file).mkdir()
    with pytest.raises(_config.BrokenConfig, match=f"{file} is no regular file"):
        interp.load(str(folder))


@pytest.mark.parametrize(
    ("file", "field", "value", "told"),
    [
        ("config.json", "model_type", 7, "model_type"),
        ("config.json", "model_type", ["llava"], "model_type"),
        ("config.json", "text_config", None, "text_config"),
        ("config.json", "text_config", [], "text_config"),
        ("config.json", "vision_config", "clip", "vision_config"),
        ("config.json", "text_config__num_attention_heads", 0, "num_attention_heads.*got 0"),
        ("config.json", "text_config__num_attention_heads", -4, "num_attention_heads.*got -4"),
        ("config.json", "text_config__num_hidden_layers", 0, "num_hidden_layers.*got 0"),
        ("config.json", "text_config__num_hidden_layers", 5, "num_hidden_layers 5.*from layer 3"),
        ("config.json", "text_config__num_hidden_layers", 1_000_000, "num_hidden_layers 1000000"),
        ("config.json", "text_config__hidden_size", "many", "hidden_size.*got 'many'"),
        ("config.json", "text_config__hidden_size", 10**12, "hidden_size"),
        ("config.json", "text_config__hidden_size", 64, "hidden_size 64.*have 32"),
        ("config.json", "text_config__hidden_size", True, "hidden_size.*got True"),
        ("config.json", "text_config", {"model_type": "llama"}, "num_hidden_layers 32"),
        ("config.json", "vision_config__num_hidden_layers", 99, "num_hidden_layers 99"),
        ("config.json", "vision_feature_layer", 99, "vision_feature_layer 99"),
        ("config.json", "vision_feature_layer", -99, "vision_feature_layer -99"),
        ("processor_config.json", "patch_size", "8", "patch_size.*got '8'"),
        ("processor_config.json", "patch_size", 0, "patch_size.*got 0"),
        ("processor_config.json", "patch_size", 7, "7 pixels a patch's side, the model 8"),
        ("processor_config.json", "vision_feature_select_strategy", "foo", "vision_feature_select_strategy"),
        ("processor_config.json", "num_additional_image_tokens", 9, "8 tokens beside .* the model 0"),
        ("processor_config.json", "image_token", 5, "image_token"),
        ("processor_config.json", "image_processor__image_mean", [0, 0], "image_mean.*3 items"),
        ("processor_config.json", "image_processor__image_std", [0, 0, 0], "image_std.*greater than 0"),
        ("processor_config.json", "image_processor__size", {"shortest_edge": 0}, "size.shortest_edge.*got 0"),
        ("processor_config.json", "image_processor__crop_size", {"height": 64, "width": 64}, "64 pixels of height"),
        ("generation_config.json", "eos_token_id", ["x"], "eos_token_id.*got 'x'"),
        ("generation_config.json", "temperature", "hot", "temperature.*got 'hot'"),
    ],
)
def test_a_field_that_cannot_be_is_named_with_what_came(folder, file, field, value, told):
    change(folder / file, **{field: value})
    with pytest.raises(ValueError, match=told):
        interp.load(str(folder))


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "cut off or damaged"),
        (lambda path: path.write_bytes(b""), "cut off or damaged"),
        (lambda path: path.write_bytes(b"\xff" * 8 + b"x" * 100), "cut off or damaged"),
        (lambda path: path.unlink(), "no weights"),
        (lambda path: save_file({"x": torch.zeros(1)}, path), "from layer 1"),
        (lambda path: save_file({k: v.to(torch.int8) for k, v in load_file(path).items()}, path), "8 bits"),
    ],
    ids=["cut", "empty", "head", "gone", "others", "bytes"],
)
def test_weights_that_are_not_those_of_the_config_are_named_before_a_model_is_built(
    folder, built_for_nothing, harm, told
):
    harm(folder / "model.safetensors")
    with pytest.raises(_config.BrokenConfig, match=told):
        interp.load(str(folder))


def test_a_chat_template_that_is_no_text_is_named(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe\x00\x81garbage")
    with pytest.raises(_config.BrokenConfig, match=r"chat_template\.jinja is no text in UTF-8"):
        interp.load(str(folder))


@pytest.mark.parametrize("file", ["tokenizer.json", "processor_config.json"])
def test_a_folder_without_its_processor_says_what_it_lacks(folder, file):
    (folder / file).unlink()
    with pytest.raises(_config.BrokenConfig, match=f"has no (tokenizer|processor).*{file}"):
        interp.load(str(folder))


def test_settings_that_transformers_gives_or_leaves_out_pass(folder):
    for file in ("generation_config.json", "tokenizer_config.json"):
        (folder / file).unlink()
    change(folder / "config.json", text_config__num_key_value_heads=2, quantization_config=None)
    change(folder / "processor_config.json", patch_size=None, num_additional_image_tokens=None)
    assert interp.load(str(folder)).layers == 3


@pytest.mark.parametrize("name", ["mini-llava/base", "mini-difflmm/base", "mini-sam"])
def test_what_ships_passes_the_check(name):
    from interp.models._described import check_folder

    folder = interp.plugins.data_folder() / name
    assert check_folder(folder)
    if name != "mini-sam":
        interp.models._load.check_place(name)
        check_model(folder)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("https://huggingface.co/x/y", "no hub id"),
        ("a/b/c", "no hub id"),
        ("nobody/nothing-here", "the hub gave none"),
        ("{tmp}/no-such", "no hub id"),
        ("{tmp}/file", "is a file"),
        ("{tmp}/empty", "has no config.json .it holds nothing"),
    ],
)
def test_a_place_without_a_model_is_told_from_a_hub_id(tmp_path, name, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    with pytest.raises(interp.models._load.UnknownModel, match=told):
        interp.load(name.format(tmp=tmp_path))
