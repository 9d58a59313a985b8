"""``to_lens`` and recorded rows against TransformerLens's ``hook_pattern``: an implementation that shares nothing with
ours. By itself its boot runs ``pip install torchvision`` and switches the model that it is given to eager attention.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import itertools
import socket
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import AutoProcessor, AutoTokenizer

import interp
from interp.datasets import scenes

pytest.importorskip("transformer_lens", reason='needs the extra: pip install -e ".[lens]" -c constraints.txt')

PROMPT, ANSWER = "Describe the image.", "A brown dog sits on a red chair beside a hydrant."
SOURCES = "transformer_lens.model_bridge.sources"


def installed():
    return {(x.name, x.version) for x in importlib.metadata.distributions()}


@pytest.fixture
def lmm(tiny_llava):
    """Gentler weights: under the sharpest attention, two kernels alone differ by 1.5e-6."""
    with torch.no_grad():
        [x.mul_(0.5) for x in tiny_llava[0].parameters()]
    return interp.wrap(*tiny_llava)


def logits_of(lmm, asked):
    with torch.no_grad():
        return lmm.model(input_ids=asked.input_ids, **asked.inputs).logits


def cached(lmm, asked, bridge=None):
    with torch.no_grad():
        return (bridge or interp.to_lens(lmm)).run_with_cache(asked.input_ids, **asked.inputs)


# The same numbers


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_rows_equal_the_patterns_of_transformer_lens(lmm, photo, kernel):
    lmm.model.set_attn_implementation(kernel)
    batch = lmm.processor(images=photo, text="<image>\nA brown dog on a chair.", return_tensors="pt")
    keys = (batch["input_ids"][0] == lmm.model.config.image_token_id).nonzero()[:, 0].tolist()
    rows = list(range(keys[-1] + 1, batch["input_ids"].shape[1]))
    bridge = interp.to_lens(lmm)
    with torch.no_grad():
        logits, patterns = bridge.run_with_cache(batch["input_ids"], pixel_values=batch["pixel_values"])
        with interp.record(lmm.model, rows, keys) as recorder:
            own = lmm.model(**batch).logits
    layers = recorder.attention.shape[1]
    want = torch.stack([patterns[f"blocks.{layer}.attn.hook_pattern"] for layer in range(layers)], 1)
    assert want.shape[-2:] == (batch["input_ids"].shape[1],) * 2 and layers == 3
    torch.testing.assert_close(recorder.attention, want[:, :, :, rows][..., keys], atol=1e-6, rtol=0)
    torch.testing.assert_close(logits, own, atol=1e-5 if kernel == "sdpa" else 0, rtol=0)


@pytest.mark.parametrize("query", ["predicting", "self"])
@pytest.mark.parametrize("squeezed", [False, True])
def test_a_cache_becomes_the_maps_that_capture_gives(lmm, photo, query, squeezed):
    asked = interp.lens_prompt(lmm, photo, PROMPT, ANSWER, query=query, sample_id="7")
    logits, cache = cached(lmm, asked)
    got = asked.capture(cache.remove_batch_dim() if squeezed else cache, logits)
    want = interp.capture(lmm, photo, PROMPT, ANSWER, tokens="all", query=query, sample_id="7")
    for name in ("sample_id", "prompt", "answer", "tokens", "query", "phrases"):
        assert getattr(got, name) == getattr(want, name)
    torch.testing.assert_close(got.attention, want.attention, atol=1e-6, rtol=0)
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
    maps, ours = interp.phrase_maps(got), interp.phrase_maps(interp.capture(lmm, photo, PROMPT, ANSWER, query=query))
    assert maps.phrases == ours.phrases and len(maps.phrases[2].tokens) > 1
    assert maps.grid.box == ours.grid.box
    torch.testing.assert_close(maps.maps, ours.maps, atol=1e-6, rtol=0)


def test_rows_and_columns_are_where_the_tokens_stand(lmm, photo):
    for query, shift in (("predicting", 1), ("self", 0)):
        asked = interp.lens_prompt(lmm, photo, PROMPT, ANSWER, query=query, phrases="dog")
        ids = asked.input_ids[0].tolist()
        assert asked.grid.token_index.shape == (4, 4)
        assert {ids[i] for i in asked.grid.token_index.flat} == {lmm.model.config.image_token_id}
        own = [ids[row + shift] for row in asked.rows]
        assert tuple(lmm.tokenizer.convert_ids_to_tokens(own)) == asked.tokens
        (dog,) = asked.phrases
        assert "".join(asked.tokens[t] for t in dog.tokens).replace("▁", "") == "dog"


def test_an_answer_that_is_not_given_is_generated(lmm, photo):
    asked = interp.lens_prompt(lmm, photo, PROMPT, phrases=[], max_new_tokens=11)
    assert asked.answer.strip() == lmm.generate(photo, PROMPT, max_new_tokens=11)
    assert len(asked.tokens) == 11


def test_a_head_patched_at_hook_z_is_its_output_before_the_projection(lmm, photo):
    layer, head, row = 1, 2, -5
    other = np.random.default_rng(1).integers(0, 256, photo.shape, dtype=np.uint8)
    clean, corrupted = (interp.lens_prompt(lmm, image, PROMPT, ANSWER) for image in (photo, other))
    bridge, name = interp.to_lens(lmm), f"blocks.{layer}.attn.hook_z"
    z = cached(lmm, clean, bridge)[1][name]

    def patch(value, hook):
        value[:, row, head] = z[:, row, head]
        return value

    with torch.no_grad():
        got = bridge.run_with_hooks(corrupted.input_ids, fwd_hooks=[(name, patch)], **corrupted.inputs)
    # by hand, on a model of Hugging Face's
    model = copy.deepcopy(lmm.model)
    model.set_attn_implementation("eager")
    project, width, seen = model.model.language_model.layers[layer].self_attn.o_proj, 8, {}
    columns = slice(head * width, (head + 1) * width)

    def keep(module, args):
        seen["z"] = args[0].clone()

    def replace(module, args):
        changed = args[0].clone()
        changed[:, row, columns] = seen["z"][:, row, columns]
        return (changed,)

    with torch.no_grad():
        with project.register_forward_pre_hook(keep):
            model(input_ids=clean.input_ids, **clean.inputs)
        with project.register_forward_pre_hook(replace):
            want = model(input_ids=corrupted.input_ids, **corrupted.inputs).logits
    torch.testing.assert_close(got, want, atol=1e-5, rtol=0)
    assert (got - logits_of(lmm, corrupted)).abs().max() > 1e-3
    torch.testing.assert_close(cached(lmm, corrupted, bridge)[0], logits_of(lmm, corrupted), atol=1e-5, rtol=0)


def test_the_shipped_model_says_the_same_under_the_bridge():
    lmm, sample = interp.load("mini-llava"), next(iter(scenes.load(samples=1)))
    asked = interp.lens_prompt(lmm, sample.image, sample.prompt, sample.answer)
    logits, cache = cached(lmm, asked)
    torch.testing.assert_close(logits, logits_of(lmm, asked), atol=2e-4, rtol=0)  # logits of up to 15; sdpa and eager
    want = interp.capture(lmm, sample.image, sample.prompt, sample.answer, tokens="all")
    torch.testing.assert_close(asked.capture(cache).attention, want.attention, atol=1e-5, rtol=0)


# One set of weights


def test_the_bridge_has_the_models_own_parameters(lmm, photo):
    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, photo, PROMPT, ANSWER)
    parameters = list(lmm.model.parameters())
    assert {id(x) for x in bridge.parameters()} == {id(x) for x in parameters} and len(parameters) > 60
    storages = {x.untyped_storage().data_ptr() for x in itertools.chain(parameters, lmm.model.buffers())}
    new = [x for x in bridge.buffers() if x.untyped_storage().data_ptr() not in storages]
    assert sum(x.numel() for x in new) <= lmm.model.config.text_config.vocab_size  # its zero bias behind the logits
    before = logits_of(lmm, asked)
    with torch.no_grad():
        lmm.model.model.language_model.layers[0].self_attn.v_proj.weight.mul_(2)
    after = logits_of(lmm, asked)
    assert (after - before).abs().max() > 1e-3
    torch.testing.assert_close(cached(lmm, asked, bridge)[0], after, atol=1e-5, rtol=0)


def test_tied_weights_stay_tied(make_tiny_llava):
    model, processor = make_tiny_llava()
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()
    tied = model.lm_head.weight
    assert tied is model.get_input_embeddings().weight
    bridge = interp.to_lens(interp.wrap(model, processor))
    assert bridge.embed.weight is tied and bridge.unembed.original_component.weight is tied


def state(lmm):
    """All of a model that a bridge could change: modules, hooks, forwards, modes, configuration, processor."""
    modules = [
        (name, id(module), module.training, sorted(module.__dict__), len(module._forward_hooks))
        for name, module in lmm.model.named_modules()
    ]
    kernels = [x._attn_implementation for x in (lmm.model.config, lmm.model.config.text_config)]
    config = copy.deepcopy(lmm.model.config.to_dict())
    return modules, kernels, config, lmm.processor.to_dict(), repr(lmm.tokenizer), lmm.tokenizer.padding_side


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_the_model_is_left_as_it_came(lmm, photo, kernel, monkeypatch):
    lmm.model.set_attn_implementation(kernel)
    lmm.model.train()
    asked = interp.lens_prompt(lmm, photo, PROMPT, ANSWER)
    said, before = logits_of(lmm, asked), state(lmm)  # the first pass leaves marks of transformers' own
    bridge = interp.to_lens(lmm)
    assert not bridge.training
    cached(lmm, asked, bridge)
    assert state(lmm) == before and torch.equal(logits_of(lmm, asked), said)
    bridge.enable_compatibility_mode(disable_warnings=True)  # the weights that this folds are the bridge's own
    assert state(lmm) == before and torch.equal(logits_of(lmm, asked), said)
    build = importlib.import_module(SOURCES).build_bridge_from_module

    def fails(*args, **kwargs):
        build(*args, **kwargs)
        raise RuntimeError("in the middle of it")

    monkeypatch.setattr(f"{SOURCES}.build_bridge_from_module", fails)
    with pytest.raises(RuntimeError, match="middle"):
        interp.to_lens(lmm)
    assert state(lmm) == before and torch.equal(logits_of(lmm, asked), said)


# What it touches


def test_a_bridge_installs_nothing_and_reads_neither_folder_nor_hub(lmm, photo, monkeypatch):
    def barred(*args, **kwargs):
        raise AssertionError(f"to_lens is about to install, load or fetch something: {args}")

    before, torch_before = installed(), torch.__version__
    monkeypatch.setattr(f"{SOURCES}.transformers.helpers._ensure_torchvision", barred)
    for owner, name in (
        (subprocess, "Popen"),
        (socket.socket, "connect"),
        (AutoProcessor, "from_pretrained"),
        (AutoTokenizer, "from_pretrained"),
        (type(lmm.model), "from_pretrained"),
    ):
        monkeypatch.setattr(owner, name, barred)
    bridge, asked = interp.to_lens(lmm), interp.lens_prompt(lmm, photo, PROMPT, ANSWER)
    cached(lmm, asked, bridge)
    ids = bridge.prepare_multimodal_inputs("<image>\nA dog.", photo)["input_ids"]
    assert ids.tolist() == lmm.processor(images=photo, text="<image>\nA dog.").input_ids
    assert bridge.to_tokens("A brown dog").tolist() == [lmm.tokenizer("A brown dog").input_ids]
    assert installed() == before and torch.__version__ == torch_before


FRESH = """
import importlib.metadata, logging, sys, warnings
import interp, interp.answer.capturing, interp.answer.lens
assert "transformer_lens" not in sys.modules
def world():
    return logging.getLogger("transformers").level, list(warnings.filters), sorted(
        (x.name, x.version) for x in importlib.metadata.distributions())
lmm = interp.load("mini-llava")
before = world()
interp.to_lens(lmm)
assert "transformer_lens" in sys.modules
assert world() == before
"""


def test_logging_warnings_and_packages_are_the_same_after_the_first_import():
    done = subprocess.run([sys.executable, "-c", FRESH], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_the_extra_the_error_says_how_to_get_it(lmm, photo, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformer_lens"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r'pip install "interp\[lens\]"'):
        interp.to_lens(lmm)
    assert interp.lens_prompt(lmm, photo, PROMPT, ANSWER).answer == ANSWER


# What cannot be


def test_a_model_without_an_adapter_is_refused_by_name(lmm):
    class Nothing(torch.nn.Module):
        pass

    with pytest.raises(ValueError, match=r"no adapter for Nothing.*LlavaForConditionalGeneration.*LlavaNext"):
        interp.to_lens(interp.LMM(Nothing(), lmm.processor, lmm.family, "nothing"))


def test_offloaded_weights_are_refused(lmm):
    lmm.model.model.multi_modal_projector.to("meta")
    with pytest.raises(ValueError, match="offloaded"):
        interp.to_lens(lmm)


def test_a_cache_that_is_not_of_this_prompt_is_refused(lmm, photo):
    asked, other = (interp.lens_prompt(lmm, photo, PROMPT, answer) for answer in (ANSWER, "A cat."))
    bridge = interp.to_lens(lmm)
    with pytest.raises(ValueError, match=r"blocks\.0\.attn\.hook_pattern has the shape"):
        asked.capture(cached(lmm, other, bridge)[1])
    some = {k: v for k, v in cached(lmm, asked, bridge)[1].items() if "blocks.2" not in k}
    with pytest.raises(ValueError, match=r"no blocks\.2\.attn\.hook_pattern"):
        asked.capture(some)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(answer="  "), "the answer is empty"),
        (dict(answer="a <image>"), "image place"),
        (dict(query="next"), "'predicting', 'self'"),
        (dict(phrases=["elephant"]), "elephant"),
    ],
)
def test_bad_input_is_refused_with_a_reason(lmm, photo, options, message):
    with pytest.raises(ValueError, match=message):
        # without the tests' own type checker, which a user does not have
        inspect.unwrap(interp.lens_prompt)(lmm, photo, PROMPT, **({"answer": ANSWER} | options))
