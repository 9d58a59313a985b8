"""Recorded rows against eager ``output_attentions`` of transformers, on tiny random models."""

from __future__ import annotations

import copy
import sys

import numpy as np
import pytest
import tiny_models
import torch
import transformers as tf
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, StaticCache

import interp
from interp.attention import passes
from interp.attention import watching as watch
from interp.attention.recorder import NotRecorded
from interp.attention.watching import NoAttentionInterface

SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.15,  # attention is far from uniform, and kernels differ by less than 1e-6
    "pad_token_id": 0,
    "max_position_embeddings": 1024,
}
GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8}
SLIDING = ["sliding_attention", "full_attention", "sliding_attention"]
DECODERS = {
    "llama": lambda: tf.LlamaForCausalLM(tf.LlamaConfig(**SIZE)),
    "qwen2": lambda: tf.Qwen2ForCausalLM(tf.Qwen2Config(**SIZE)),
    "qwen3": lambda: tf.Qwen3ForCausalLM(tf.Qwen3Config(**SIZE, head_dim=8)),
    "mistral": lambda: tf.MistralForCausalLM(tf.MistralConfig(**SIZE, sliding_window=4)),
    "gemma": lambda: tf.GemmaForCausalLM(tf.GemmaConfig(**SIZE, head_dim=8)),
    "gemma2": lambda: tf.Gemma2ForCausalLM(
        tf.Gemma2Config(**SIZE, **GEMMA, sliding_window=4, attn_logit_softcapping=2.0, layer_types=SLIDING)
    ),
    "gemma3": lambda: tf.Gemma3ForCausalLM(tf.Gemma3TextConfig(**SIZE, **GEMMA, sliding_window=4, layer_types=SLIDING)),
    "gpt_oss": lambda: tf.GptOssForCausalLM(
        tf.GptOssConfig(
            **SIZE, head_dim=8, sliding_window=4, layer_types=SLIDING, num_local_experts=2, num_experts_per_tok=1
        )
    ),
    "gpt2": lambda: tf.GPT2LMHeadModel(tf.GPT2Config(vocab_size=64, n_embd=32, n_layer=3, n_head=4, n_positions=64)),
}
ONLY_EAGER = {"gemma2", "gpt_oss"}  # transformers has no sdpa for softcaps and sinks
CASES = [
    (name, kernel) for name in DECODERS for kernel in ("eager", "sdpa") if name not in ONLY_EAGER or kernel == "eager"
]
LENGTH = 11


def build(name: str, kernel: str = "sdpa") -> tf.PreTrainedModel:
    kernel = "eager" if name in ONLY_EAGER else kernel
    torch.manual_seed(0)
    model = DECODERS[name]().eval()
    if name == "gpt_oss":
        for layer in model.model.layers:
            torch.nn.init.normal_(layer.self_attn.sinks)
    model.set_attn_implementation(kernel)
    return model


def inputs(padding: str = "none", length: int = LENGTH) -> dict[str, torch.Tensor]:
    ids = torch.randint(1, 64, (2, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    if padding == "left":
        mask[0, :3] = 0
    if padding == "right":
        mask[0, -3:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@torch.no_grad()
def eager(model: torch.nn.Module, **batch: torch.Tensor) -> torch.Tensor:
    """The reference: [batch layer head query key] of one eager pass over everything."""
    model = copy.deepcopy(model)
    model.set_attn_implementation("eager")
    return torch.stack(model(**batch, use_cache=False, output_attentions=True).attentions, 1)


def assert_rows(got: torch.Tensor, want: torch.Tensor, tolerance: float = 1e-6) -> None:
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want.float(), atol=tolerance, rtol=0)


@pytest.mark.parametrize(("name", "kernel"), CASES)
@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_rows_equal_eager_attention(name, kernel, padding):
    model, batch, rows, keys = build(name, kernel), inputs(padding), [4, 6, 7], [1, 3, 4, 7]
    want = eager(model, **batch)
    with torch.no_grad():
        plain = model(**batch).logits
        with interp.record(model, rows, keys) as recorder:
            logits = model(**batch).logits
    assert torch.equal(plain, logits)
    assert_rows(recorder.attention, want[:, :, :, rows][..., keys])
    assert want[:, :, :, rows].std() > 0.01  # the reference is not trivially uniform


@pytest.mark.parametrize(("name", "kernel"), CASES)
def test_rows_survive_chunked_prefill_and_decoding(name, kernel):
    model, batch, rows = build(name, kernel), inputs("left"), [3, 5, 8, 9, 10]
    want = eager(model, **batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), interp.record(model, rows) as recorder:
        for start, end in ((0, 5), (5, 9), (9, 10), (10, 11)):
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
    assert_rows(recorder.attention, want[:, :, :, rows])
    if name == "mistral":
        assert cache.layers[0].keys.shape[2] < LENGTH  # the window did drop keys


@pytest.mark.parametrize("name", ["llama", "mistral", "gemma3"])
def test_a_recorder_may_start_over_a_kept_cache(name):
    model, batch, rows, keys = build(name), inputs("left"), [8, 10], [0, 2, 5, 9]
    want = eager(model, **batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad():
        cache = DynamicCache(config=model.config)
        model(ids[:, :7], attention_mask=mask[:, :7], past_key_values=cache)
        with interp.record(model, rows, keys) as recorder:
            model(ids[:, 7:], attention_mask=mask, past_key_values=cache)
    assert_rows(recorder.attention, want[:, :, :, rows][..., keys])


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_room_in_a_static_cache_is_not_attention(name):
    model, batch, rows = build(name), inputs("left"), [4, 8, 10]
    want = eager(model, **batch)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cache = StaticCache(config=model.config, max_cache_len=16)
    with torch.no_grad(), interp.record(model, rows) as recorder:
        for start, end in ((0, 9), (9, 10), (10, 11)):
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
    assert_rows(recorder.attention, want[:, :, :, rows])


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
def test_llava_rows_are_those_of_its_language_model(tiny_llava, photo, kernel):
    model, processor = tiny_llava
    with torch.no_grad():  # gentler weights: under the sharpest attention, two kernels alone differ by 1.5e-6
        [x.mul_(0.5) for x in model.parameters()]
    batch = processor(
        images=[photo, photo[:, ::-1]],
        text=["<image>\nA dog.", "<image>\nTwo cups."],
        padding=True,
        return_tensors="pt",
    )
    model.set_attn_implementation(kernel)
    image = batch["input_ids"][0] == model.config.image_token_id
    keys, rows = image.nonzero()[:, 0].tolist(), [-2 + batch["input_ids"].shape[1], batch["input_ids"].shape[1] - 1]
    want = eager(model, **batch)
    with torch.no_grad():
        plain = model(**batch).logits
        with interp.record(model, rows, keys) as recorder:
            logits = model(**batch).logits
        with interp.record(model.model.language_model, rows, keys) as inner:
            model(**batch)
    assert torch.equal(plain, logits)
    assert_rows(recorder.attention, want[:, :, :, rows][..., keys])
    assert torch.equal(recorder.attention, inner.attention)


def test_a_vision_tower_can_be_recorded_by_itself(tiny_llava):
    tower = tiny_llava[0].model.vision_tower
    pixels = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), interp.record(tower, [0, 5]) as recorder:
        tower(pixels)
    tower.set_attn_implementation("eager")
    with torch.no_grad():
        want = torch.stack(tower(pixels, output_attentions=True).attentions, 1)
    assert_rows(recorder.attention, want[:, :, :, [0, 5]])


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_flash_masks_are_completed_by_causality_and_window(name, padding, monkeypatch):
    """A stand-in for flash attention on CPU: it gets a 2D mask or None, and masks by itself as flash does."""

    def flash(module, query, key, value, attention_mask, scaling=None, sliding_window=None, **kwargs):
        assert attention_mask is None or attention_mask.ndim == 2
        distance = torch.arange(key.shape[2])[None, -query.shape[2] :, None] - torch.arange(key.shape[2])
        seen = (distance >= 0) & (distance < (sliding_window or key.shape[2]))
        if attention_mask is not None:
            seen = seen & attention_mask[:, None].bool()
        seen = seen[:, None] | ~seen.any(-1)[:, None, :, None]
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
        output = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=scaling)
        return output.transpose(1, 2), None

    masks = tf.masking_utils.flash_attention_mask
    monkeypatch.setitem(AttentionInterface._global_mapping, "stand_in", flash)
    monkeypatch.setitem(AttentionMaskInterface._global_mapping, "stand_in", masks)
    model, batch, rows = build(name), inputs(padding), [4, 6, 7, 10 if padding == "left" else 5]
    want = eager(model, **batch)
    model.set_attn_implementation("stand_in")
    cache = DynamicCache(config=model.config)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    with torch.no_grad(), interp.record(model, rows) as whole:
        model(**batch)
    assert_rows(whole.attention, want[:, :, :, rows])
    with torch.no_grad(), interp.record(model, rows) as parts:
        for start, end in ((0, 6), (6, 7), (7, 11)):
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
    assert_rows(parts.attention, want[:, :, :, rows])


@pytest.mark.parametrize("padding", ["none", "left", "right"])
@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
def test_flex_block_masks_are_understood(name, padding, monkeypatch):
    """Flex attention without its compiler, which needs half a minute on CPU; the masks and the arguments are real."""
    import transformers.integrations.flex_attention as flex

    def uncompiled(query, key, value, training=False, **kwargs):
        return flex.flex_attention(query, key, value, **kwargs)

    make_mask = tf.masking_utils.create_block_mask
    monkeypatch.setattr(flex, "compile_friendly_flex_attention", uncompiled)
    monkeypatch.setattr(
        tf.masking_utils, "create_block_mask", lambda *args, **kwargs: make_mask(*args, **kwargs | {"_compile": False})
    )
    model, batch = build(name), inputs(padding)
    want = eager(model, **batch)
    model.set_attn_implementation("flex_attention")
    ids, mask, rows = batch["input_ids"], batch["attention_mask"], [4, 6, 7]
    with torch.no_grad(), interp.record(model, rows) as recorder:
        plain = model(**batch).logits
    with torch.no_grad():
        assert torch.equal(plain, model(**batch).logits)
    assert_rows(recorder.attention, want[:, :, :, rows])
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), interp.record(model, torch.tensor([[4, -1, 7], [7, 6, 4]])) as recorder:
        for start, end in ((0, 6), (6, 7), (7, 11)):
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
    assert_rows(recorder.attention[1], want[1][:, :, [7, 6, 4]])
    assert_rows(recorder.attention[0, :, :, [0, 2]], want[0][:, :, [4, 7]])


def test_positions_per_sample_and_absent_ones():
    model, batch = build("llama"), inputs("left")
    want = eager(model, **batch)
    queries, keys = torch.tensor([[10, -1, 4], [2, 9, -1]]), torch.tensor([[3, 5, -1], [0, 2, 1]])
    with torch.no_grad(), interp.record(model, queries, keys) as recorder:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        cache = model(ids[:, :7], attention_mask=mask[:, :7]).past_key_values
        model(ids[:, 7:], attention_mask=mask, past_key_values=cache)
    got = recorder.attention
    for sample in range(2):
        for row, query in enumerate(queries[sample].tolist()):
            for column, key in enumerate(keys[sample].tolist()):
                cell = got[sample, :, :, row, column]
                if query < 0 or key < 0:
                    assert cell.isnan().all()
                else:
                    assert_rows(cell, want[sample, :, :, query, key])


@pytest.mark.parametrize("keys", [None, [0, 4, 9]])
def test_the_mean_is_that_of_its_rows_without_keeping_them(keys):
    model, batch = build("mistral"), inputs("left")
    want = eager(model, **batch)[..., keys or slice(None)]
    rows = torch.tensor([[4, 9, -1, -1], [3, 5, 6, 10]])
    ids, mask = batch["input_ids"], batch["attention_mask"]
    cache = DynamicCache(config=model.config)
    with torch.no_grad(), interp.record(model, [5, 8], keys, mean=rows) as recorder:
        for start, end in ((0, 7), (7, 10), (10, 11)):
            model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache)
    assert_rows(recorder.attention, want[:, :, :, [5, 8]])
    assert_rows(recorder.mean[0], want[0][:, :, [4, 9]].mean(2))
    assert_rows(recorder.mean[1], want[1][:, :, [3, 5, 6, 10]].mean(2))
    with torch.no_grad(), interp.record(model, [], keys, mean=[5, 20]) as recorder:
        model(**batch)
    with pytest.raises(NotRecorded, match=r"rows \[20\]"):
        _ = recorder.mean
    with pytest.raises(ValueError, match="last"), interp.record(model, "last", mean=[5]):
        pass


def test_many_rows_are_worked_on_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr("interp.attention.plan.ROWS_AT_ONCE", 3 * 2 * 4 * LENGTH)
    model, batch, rows = build("llama"), inputs("left"), [3, 4, 5, 6, 7, 8, 9]
    with torch.no_grad(), interp.record(model, rows, mean=rows[1:]) as recorder:
        model(**batch)
    want = eager(model, **batch)
    assert_rows(recorder.attention, want[:, :, :, rows])
    assert_rows(recorder.mean, want[:, :, :, rows[1:]].mean(3))


def test_layers_are_the_asked_ones_in_the_asked_order():
    model, batch = build("llama"), inputs()
    with torch.no_grad(), interp.record(model, [5], layers=[2, 0]) as recorder:
        model(**batch)
    assert recorder.layers == (2, 0)
    assert_rows(recorder.attention, eager(model, **batch)[:, [2, 0]][:, :, :, [5]])


@pytest.mark.parametrize("name", ["llama", "mistral"])
@pytest.mark.parametrize("keys", [None, [0, 4, 9]])
def test_streaming_over_generate_equals_its_output_attentions(name, keys):
    model, batch = build(name), inputs("left")
    options = {"max_new_tokens": 80, "min_new_tokens": 80, "do_sample": False}
    with interp.record(model, "last", keys) as recorder:
        got = model.generate(**batch, **options)
    model.set_attn_implementation("eager")
    out = model.generate(**batch, **options, output_attentions=True, return_dict_in_generate=True)
    assert torch.equal(got, out.sequences)
    attention = recorder.attention
    assert attention.shape[3] == len(out.attentions) == 80
    for step, layers in enumerate(out.attentions):
        want = torch.stack([x[:, :, -1] for x in layers], 1)
        n = LENGTH + step  # what a sliding window has dropped is 0
        want = torch.nn.functional.pad(want, (n - want.shape[-1], 0))
        assert_rows(
            attention[:, :, :, step, :n] if keys is None else attention[:, :, :, step],
            want[..., keys] if keys else want,
        )
        if keys is None:
            assert (attention[:, :, :, step, n:] == 0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_rows_are_the_exact_softmax_of_the_models_own_queries_and_keys(dtype):
    """Eager attention rounds scores and weights to 8 or 11 bits; the tolerance is that rounding, not ours."""
    model, batch, rows = build("llama").to(dtype), inputs("left"), [5, 10]
    with torch.no_grad(), interp.record(model, rows) as recorder:
        model(**batch)
    assert_rows(recorder.attention, eager(model, **batch)[:, :, :, rows], 0.05 if dtype == torch.bfloat16 else 0.01)
    assert (recorder.attention.sum(-1) - 1).abs().max() < 1e-5
    # Layer 0's queries and keys do not depend on the kernel: there the rows are exact.
    attention, exact = model.model.layers[0].self_attn, {}
    handles = [
        getattr(attention, x).register_forward_hook(lambda m, i, out, x=x: exact.update({x: out}))
        for x in ("q_proj", "k_proj")
    ]
    with torch.no_grad():
        model(**batch)
        [handle.remove() for handle in handles]
        q, k = (exact[x].unflatten(-1, (-1, 8)).transpose(1, 2) for x in ("q_proj", "k_proj"))
        places = (batch["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        turn = model.model.rotary_emb(q, torch.arange(LENGTH)[None].expand_as(places))
        q, k = tf.models.llama.modeling_llama.apply_rotary_pos_emb(q, k, *turn)
        scores = q[:, :, rows].double() @ k.repeat_interleave(2, 1).double().mT * 8**-0.5
        seen = (torch.arange(LENGTH) <= torch.tensor(rows)[:, None]) & batch["attention_mask"][:, None, None].bool()
        want = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    assert_rows(recorder.attention[:, 0], want)


def test_autocast_does_not_round_the_rows():
    model, batch = build("llama"), inputs()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), interp.record(model, [5, 10]) as recorder:
        model(**batch)
    assert recorder.attention.dtype == torch.float32
    assert (recorder.attention.sum(-1) - 1).abs().max() < 1e-6


def test_gradients_are_those_of_a_forward_pass_without_recording():
    model, batch = build("llama").train(), inputs()
    grads = []
    for recording in (False, True):
        model.zero_grad()
        if recording:
            with interp.record(model, [5, 10]) as recorder:
                model(**batch, labels=batch["input_ids"]).loss.backward()
        else:
            model(**batch, labels=batch["input_ids"]).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))
    assert not recorder.attention.requires_grad


def test_activation_checkpoints_may_repeat_a_pass():
    model, batch = build("llama").train(), inputs()
    model.activation_checkpointing_enable()
    with interp.record(model, [5, 10]) as recorder:
        model(**batch, labels=batch["input_ids"], use_cache=False).loss.backward()
    assert_rows(recorder.attention, eager(model.eval(), **batch)[:, :, :, [5, 10]])


def test_inference_mode_and_its_end_can_be_mixed():
    model, batch = build("llama"), inputs()
    ids = batch["input_ids"]
    with interp.record(model, [5, 10]) as recorder:
        with torch.inference_mode():
            cache = model(ids[:, :7]).past_key_values
        with torch.no_grad():
            model(ids[:, 7:], past_key_values=cache)
    assert_rows(recorder.attention * 1, eager(model, **batch)[:, :, :, [5, 10]])


class Largest(TorchDispatchMode):
    """The largest tensor that any operation gave back, in elements."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(x, torch.Tensor) and x.storage_offset() == 0:
                self.elements = max(self.elements, x.untyped_storage().nbytes() // x.element_size())
        return out


@pytest.mark.parametrize("per_sample", [False, True])
def test_nothing_of_the_size_of_all_queries_times_all_keys_is_allocated(per_sample):
    length = 600
    model, batch = build("llama"), inputs(length=length)
    rows = torch.tensor([[5, 599], [7, 300]]) if per_sample else [5, 599]
    with torch.no_grad(), Largest() as plain:
        model(**batch)
    with torch.no_grad(), Largest() as recorded, interp.record(model, rows) as recorder:
        model(**batch)
    assert recorder.attention.shape == (2, 3, 4, 2, length)
    assert plain.elements < length * length  # or the next line would prove nothing
    assert recorded.elements < length * length


def everything(model: torch.nn.Module) -> dict:
    """All that a patch could have left behind: configuration, registries, hooks and attributes of every module."""
    state = {
        "lookup": AttentionInterface.get_interface,
        "own": "get_interface" in vars(AttentionInterface),
        "kernels": dict(AttentionInterface._global_mapping),
        "masks": dict(AttentionMaskInterface._global_mapping),
        "local": dict(tf.modeling_utils.ALL_ATTENTION_FUNCTIONS._local_mapping),
        "config": model.config.to_dict() | {"kernel": model.config._attn_implementation},
    }
    for name, module in model.named_modules():
        for key, x in vars(module).items():
            state[f"{name}.{key}"] = dict(x) if isinstance(x, dict) else id(x)
        state[f"{name} class"] = type(module)
        state[f"{name} forward"] = module.forward.__func__
    return state


def same(a: dict, b: dict) -> bool:
    def plain(x):
        return (
            {k: plain(v) for k, v in x.items()} if isinstance(x, dict) else id(x) if isinstance(x, torch.Tensor) else x
        )

    return plain(a) == plain(b)


def test_the_model_leaves_as_it_came_also_after_an_exception():
    model, batch = build("llama"), inputs()
    before = everything(model)
    with torch.no_grad(), interp.record(model, [5]):
        assert not same(before, everything(model))  # `everything` does see the patch
        model(**batch)
    assert same(before, everything(model))
    with pytest.raises(ZeroDivisionError), interp.record(model, [5]):
        model(**batch)
        raise ZeroDivisionError
    assert same(before, everything(model))
    with pytest.raises(ValueError), interp.record(model, torch.tensor([[1], [2], [3]])):
        model(**batch)  # the recorder itself fails within the forward pass
    assert same(before, everything(model))


def test_recorders_may_be_nested_and_two_models_recorded_at_once():
    one, other, batch = build("llama"), build("mistral", "eager"), inputs("left")
    before = everything(one), everything(other)
    with torch.no_grad(), interp.record(one, [5]) as a, interp.record(other, [6]) as b:
        with interp.record(one, [9, 10], [3]) as c:
            one(**batch)
        other(**batch)
        other_pass = interp.record(one, [4])
        with other_pass as d:
            pass
    assert_rows(a.attention, eager(one, **batch)[:, :, :, [5]])
    assert_rows(b.attention, eager(other, **batch)[:, :, :, [6]])
    assert_rows(c.attention, eager(one, **batch)[:, :, :, [9, 10]][..., [3]])
    with pytest.raises(NotRecorded):
        _ = d.attention
    assert same(before[0], everything(one)) and same(before[1], everything(other))


def test_recorders_may_end_in_any_order():
    model, batch = build("llama"), inputs()
    lookup = AttentionInterface.get_interface
    a, b = interp.record(model, [5]), interp.record(model, [6])
    with torch.no_grad():
        first = a.__enter__()
        second = b.__enter__()
        a.__exit__(None, None, None)
        model(**batch)
        b.__exit__(None, None, None)
    assert AttentionInterface.get_interface is lookup
    assert_rows(second.attention, eager(model, **batch)[:, :, :, [6]])
    with pytest.raises(NotRecorded):
        _ = first.attention


def test_someone_elses_patch_over_ours_is_not_undone(monkeypatch):
    model, batch = build("llama"), inputs()
    calls = []
    with torch.no_grad():
        recording = interp.record(model, [5])
        recorder = recording.__enter__()
        ours = AttentionInterface.get_interface

        def theirs(self, name, default):
            calls.append(name)
            return ours(self, name, default)

        monkeypatch.setattr(AttentionInterface, "get_interface", theirs)
        model(**batch)
        recording.__exit__(None, None, None)
        assert AttentionInterface.get_interface is theirs and len(calls) == 3
        plain = model(**batch).logits  # still runs, and records for nobody
        with interp.record(model, [6], mean=[6]) as second:
            assert torch.equal(model(**batch).logits, plain)
        monkeypatch.undo()
        with interp.record(model, [7]) as third:
            model(**batch)
    want = eager(model, **batch)
    assert_rows(recorder.attention, want[:, :, :, [5]])
    assert_rows(second.attention, want[:, :, :, [6]])
    assert_rows(second.mean, want[:, :, :, 6])
    assert_rows(third.attention, want[:, :, :, [7]])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch, by its own compiler
def test_rows_equal_eager_attention_under_compiled_flex_attention():
    model, batch, rows = build("llama"), inputs("left"), [4, 6, 7]
    want = eager(model, **batch)
    model.set_attn_implementation("flex_attention")
    with torch.no_grad():
        plain = model(**batch).logits
        with interp.record(model, rows) as recorder:
            assert torch.equal(model(**batch).logits, plain)
    assert_rows(recorder.attention, want[:, :, :, rows])


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", ["sdpa", "flash_attention_2", "flex_attention"])
def test_half_precision_kernels_on_a_gpu_give_the_rows_of_eager(kernel):
    model, batch, rows = build("llama").to("cuda", torch.bfloat16), inputs("left"), [5, 10]
    batch = {name: x.cuda() for name, x in batch.items()}
    want = eager(model, **batch)
    model.set_attn_implementation(kernel)
    with torch.no_grad():
        plain = model(**batch).logits
        with interp.record(model, rows) as recorder:
            assert torch.equal(model(**batch).logits, plain)
    assert_rows(recorder.attention, want[:, :, :, rows], 0.05)


def test_a_padding_query_has_no_attention():
    model, batch = build("llama"), inputs("left")
    for kernel in ("eager", "sdpa"):
        model.set_attn_implementation(kernel)
        with torch.no_grad(), interp.record(model, [1, 5], [0, 4]) as recorder:
            model(**batch)
        assert recorder.attention[0, :, :, 0].isnan().all()
        assert recorder.attention[1].isfinite().all() and recorder.attention[0, :, :, 1].isfinite().all()


def test_nan_in_the_weights_stays_nan():
    model = build("llama")
    torch.nn.init.constant_(model.model.layers[1].self_attn.q_proj.weight, torch.nan)
    with torch.no_grad(), interp.record(model, [5]) as recorder:
        model(**inputs())
    assert recorder.attention[:, 0].isfinite().all() and recorder.attention[:, 1].isnan().all()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_adapters_and_their_base_are_recorded_alike():
    peft = pytest.importorskip("peft")
    model, batch = build("llama"), inputs()
    adapted = peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(target_modules="all-linear"))
    with torch.no_grad(), interp.record(adapted, [5]) as recorder:
        adapted(**batch)
    assert_rows(recorder.attention, eager(model, **batch)[:, :, :, [5]])


def test_offloaded_layers_are_recorded():
    """As with `device_map`: accelerate replaces each module's forward and moves its inputs."""
    accelerate = pytest.importorskip("accelerate")
    model, batch = build("llama"), inputs("left")
    want = eager(model, **batch)
    model = accelerate.cpu_offload(model)
    with torch.no_grad(), interp.record(model, [5, 10]) as recorder:
        model(**batch)
    assert_rows(recorder.attention, want[:, :, :, [5, 10]])


def test_a_model_without_the_interface_is_refused():
    with pytest.raises(NoAttentionInterface, match="Sequential has no module that uses transformers' attention"):
        interp.record(torch.nn.Sequential(torch.nn.MultiheadAttention(8, 2)), [0]).__enter__()


@pytest.mark.parametrize("wrong", [[-1], [1.5], [True], torch.tensor([[-2]]), "first", [[[1]]], 3, [None]])
def test_positions_that_mean_nothing_are_refused(wrong):
    model = build("llama")
    with pytest.raises(ValueError, match="queries must be whole numbers from 0 up"), interp.record(model, wrong):
        pass
    with pytest.raises(ValueError, match="keys must be whole numbers from 0 up"), interp.record(model, "last", wrong):
        pass


@pytest.mark.parametrize("layers", [[3], [], [0, 0], [-1]])
def test_layers_that_do_not_exist_are_refused(layers):
    with pytest.raises(ValueError, match="layers"), interp.record(build("llama"), [0], layers=layers):
        pass


def test_what_no_forward_pass_computed_is_an_error_not_a_number():
    model, batch = build("llama"), inputs()
    with interp.record(model, [5]) as recorder, pytest.raises(NotRecorded, match="no attention came by"):
        _ = recorder.attention
    with torch.no_grad(), interp.record(model, [5, 11]) as recorder:
        model(**batch)
    with pytest.raises(NotRecorded, match=r"rows \[11\]"):
        _ = recorder.attention
    with torch.no_grad(), interp.record(model, [5], [11]) as recorder:
        model(**batch)
    with pytest.raises(NotRecorded, match="key 11"):
        _ = recorder.attention


def test_two_sequences_in_one_recorder_are_refused():
    model, batch = build("llama"), inputs()
    with torch.no_grad(), interp.record(model, [5]):
        model(**batch)
        with pytest.raises(ValueError, match="two sequences"):
            model(input_ids=batch["input_ids"].flip(1))


def test_another_batch_in_one_recorder_is_refused():
    model, batch = build("llama"), inputs()
    with torch.no_grad(), interp.record(model, "last"):
        model(**batch)
        with pytest.raises(ValueError, match="1 samples"):
            model(input_ids=batch["input_ids"][:1])


@pytest.mark.parametrize("weighting", ["attention", "value"])
def test_a_copy_made_while_recording_takes_neither_hooks_nor_a_cache_along(tiny_llava, weighting):

    model, _ = tiny_llava
    ids = torch.tensor([[1, 20, 30, 25]])
    with torch.no_grad():
        plain = model(input_ids=ids).logits
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    with interp.record(model, [2], weighting=weighting) as recorder, torch.no_grad():
        twin = copy.deepcopy(model)
        again = twin(input_ids=ids, use_cache=True).logits
        model(input_ids=ids)
    torch.testing.assert_close(again, plain)
    assert recorder.attention.shape[2] == 4 or recorder.attention.numel()
    assert [len(m._forward_pre_hooks) for m in twin.modules()] == hooks
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks
    assert not passes._passes and not watch._watched and not watch._hooks


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("how", ["ablate", "knockout"])
def test_gradients_that_would_be_computed_without_the_intervention_are_warned_of(tiny_llava, how):
    model, _ = tiny_llava
    ids = torch.tensor([[1, 20, 30, 25]])

    def away():
        return interp.ablate(model, [(1, 1)], "zero") if how == "ablate" else interp.knockout(model, [3], [1])

    def gradient(checkpointing):
        model.train()
        model.zero_grad()
        (model.gradient_checkpointing_enable if checkpointing else model.gradient_checkpointing_disable)()
        with away():
            model(input_ids=ids).logits.sum().backward()
        return model.model.language_model.layers[0].mlp.up_proj.weight.grad.clone()

    truth = gradient(False)
    with pytest.warns(UserWarning, match="gradient checkpointing on"):
        inside = gradient(True)
    torch.testing.assert_close(inside, truth)


def test_a_vision_tower_that_calls_its_kernel_window_by_window_is_recorded():
    model, processor = tiny_models.build("qwen2_5_vl")
    lmm = interp.wrap(model, processor)
    image = np.random.default_rng(0).integers(0, 256, (40, 52, 3), dtype=np.uint8)
    inputs = lmm.inputs([image], [lmm.template("What?")])
    tower, weights = model.model.visual, []
    patches = int(inputs["image_grid_thw"].prod())
    with interp.record(tower, range(patches)) as seen, torch.no_grad():
        tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    assert seen.attention.shape == (1, 2, 2, patches, patches)
    torch.testing.assert_close(seen.attention.sum(-1), torch.ones(1, 2, 2, patches), atol=1e-5, rtol=0)
    # By hand, from what eager attention gives for each window.
    model.set_attn_implementation("eager")
    kernel = sys.modules[type(tower).__module__].eager_attention_forward

    def eager(module, *args, **options):
        made = kernel(module, *args, **options)
        weights.append((module, made[1]))
        return made

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(sys.modules[type(tower).__module__], "eager_attention_forward", eager)
        tower(inputs["pixel_values"], grid_thw=inputs["image_grid_thw"])
    for layer, block in enumerate(tower.blocks):
        own = [w[0] for module, w in weights if module is block.attn]
        want = torch.stack([torch.block_diag(*(w[head] for w in own)) for head in range(2)])
        torch.testing.assert_close(seen.attention[0, layer], want, atol=1e-5, rtol=0)
    assert len([m for m, _ in weights if m is tower.blocks[0].attn]) > 1


def test_rows_of_packed_texts_see_their_own_text_alone():
    from interp.attention.rows import kernel_rows

    q, k = torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4)
    options = {"cu_seq_lens_q": torch.tensor([0, 2, 5])}
    rows = kernel_rows(torch.arange(5)[None], q, k, None, (0, 0), False, options)
    assert not rows[..., :2, 2:].any() and not rows[..., 2:, :2].any()
    alone = kernel_rows(torch.arange(3)[None], q[:, :, 2:], k[:, :, 2:], None, (0, 0), False, {})
    torch.testing.assert_close(rows[..., 2:, 2:], alone)


def test_cross_attention_is_refused_and_not_cut_to_the_querys_length():
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig
    from transformers.models.mllama.modeling_mllama import MllamaTextCrossAttention

    text = MllamaTextConfig(hidden_size=16, num_attention_heads=2, num_key_value_heads=2, num_hidden_layers=2)
    text._attn_implementation = "sdpa"
    module = MllamaTextCrossAttention(text, layer_idx=1)
    states, image = torch.randn(1, 3, 16), torch.randn(1, 7, 16)
    with interp.record(module, [0]), pytest.raises(TypeError, match="cross-attention"):
        module(hidden_states=states, cross_attention_states=image, attention_mask=None)
