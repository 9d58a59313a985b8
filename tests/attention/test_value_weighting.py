"""Value-weighted maps against attention times the norm of explicitly projected values."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

import interp
from interp.attention.values import output_projection, output_weight
from interp.ranking.study import check
from interp.types import Sample, Target
from interp.work.store import Memory


def explicit(attention, values, weight):
    """[batch head query key]: || a_ij W_h v_j ||, with every projected vector made; ``values`` [batch head key dim]."""
    heads, dim = values.shape[1], values.shape[3]
    parts = weight.reshape(weight.shape[0], heads, dim)
    passed = torch.einsum("bhkd,whd->bhkw", values.double(), parts.double())
    return attention.double() * torch.linalg.vector_norm(passed, dim=-1)[:, :, None]


def values_of(model, name, width):
    """Records what the value projection of each layer gives, [batch head key dim]."""
    seen = []
    hooks = [
        module.register_forward_hook(lambda _, args, out: seen.append(out.unflatten(-1, (-1, width)).transpose(1, 2)))
        for path, module in model.named_modules()
        if path.endswith(name)
    ]
    return seen, hooks


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_maps_of_a_padded_batch_with_grouped_heads_are_attention_times_the_projected_values_norm(
    tiny_llava, photo, kernel
):
    model, processor = tiny_llava
    texts = ["<image>\nA brown dog on a chair.", "<image>\nA cat."]
    batch = processor(images=[photo, photo], text=texts, return_tensors="pt", padding=True, padding_side="left")
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    seen, hooks = values_of(eager.model.language_model, "v_proj", 8)
    with torch.no_grad():
        attention = eager(**batch, output_attentions=True).attentions
    [hook.remove() for hook in hooks]
    model.set_attn_implementation(kernel)
    length = batch["input_ids"].shape[1]
    rows = [length - 3, length - 1]
    with torch.no_grad(), interp.record(model, rows, weighting="value", mean=rows) as recorder:
        model(**batch)
    for layer, (a, v) in enumerate(zip(attention, seen, strict=True)):
        weight = model.model.language_model.layers[layer].self_attn.o_proj.weight
        want = explicit(a[:, :, rows], v.repeat_interleave(2, 1), weight).float()
        torch.testing.assert_close(recorder.attention[:, layer], want, atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(recorder.mean[:, layer], want.mean(2), atol=1e-6, rtol=1e-5)


def test_a_cache_read_in_pieces_gives_the_same_weighted_rows(tiny_llava, photo):
    from transformers import DynamicCache

    model, processor = tiny_llava
    batch = processor(images=photo, text="<image>\nA brown dog on a chair.", return_tensors="pt")
    length = batch["input_ids"].shape[1]
    rows = list(range(length - 4, length))
    with torch.no_grad(), interp.record(model, rows, weighting="value") as whole:
        model(**batch)
    cache, cut = DynamicCache(config=model.config), length - 3
    with torch.no_grad(), interp.record(model, rows, weighting="value") as pieces:
        model(input_ids=batch["input_ids"][:, :cut], pixel_values=batch["pixel_values"], past_key_values=cache)
        model(input_ids=batch["input_ids"][:, cut:], past_key_values=cache)
    torch.testing.assert_close(pieces.attention, whole.attention, atol=1e-6, rtol=1e-5)


def test_gpt2_keeps_its_projection_transposed_and_is_weighted_all_the_same():
    from transformers import GPT2Config, GPT2Model

    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=40, n_embd=32, n_layer=2, n_head=4, n_positions=20, initializer_range=0.3))
    model.eval()
    ids = torch.arange(1, 12)[None]
    eager = copy.deepcopy(model)
    eager.set_attn_implementation("eager")
    seen = []
    hooks = [b.attn.c_attn.register_forward_hook(lambda _, a, out: seen.append(out.chunk(3, -1)[2])) for b in eager.h]
    with torch.no_grad():
        attention = eager(ids, output_attentions=True).attentions
    [hook.remove() for hook in hooks]
    with torch.no_grad(), interp.record(model, [3, 10], weighting="value") as recorder:
        model(ids)
    for layer in range(2):
        v = seen[layer].unflatten(-1, (4, 8)).transpose(1, 2)
        want = explicit(attention[layer][:, :, [3, 10]], v, model.h[layer].attn.c_proj.weight.T).float()
        torch.testing.assert_close(recorder.attention[:, layer], want, atol=1e-6, rtol=1e-5)


def test_clips_tower_and_bf16_can_be_weighted_too(tiny_llava, photo):
    model, processor = tiny_llava
    pixels = processor(images=photo, text="<image>\nA", return_tensors="pt")["pixel_values"]
    tower = model.model.vision_tower
    with torch.no_grad(), interp.record(tower, [0, 5], weighting="value") as exact:
        tower(pixels)
    half = copy.deepcopy(tower).bfloat16()
    with torch.no_grad(), interp.record(half, [0, 5], weighting="value") as rounded:
        half(pixels.bfloat16())
    assert exact.attention.shape[1:] == (2, 2, 2, 17) and (exact.attention > 0).all()
    torch.testing.assert_close(rounded.attention, exact.attention, atol=2e-3, rtol=0.1)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers' old name
def test_an_adapter_that_is_not_merged_counts(tiny_llava):
    from peft import LoraConfig, get_peft_model

    model, _ = tiny_llava
    attention = model.model.language_model.layers[1].self_attn
    like = torch.empty(0, 32)
    plain = output_weight(output_projection(attention), like).clone()
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules=["o_proj"], init_lora_weights=False))
    with_adapter = output_weight(output_projection(attention), like)
    adapted.merge_adapter()
    torch.testing.assert_close(with_adapter, attention.o_proj.base_layer.weight.float(), atol=1e-5, rtol=1e-4)
    assert (with_adapter - plain).abs().max() > 1e-3


def test_weights_swapped_in_place_change_the_norms(tiny_llava, photo):
    model, processor = tiny_llava
    batch = processor(images=photo, text="<image>\nA dog.", return_tensors="pt")

    def last_layer():
        with torch.no_grad(), interp.record(model, [20], weighting="value") as recorder:
            model(**batch)
        return recorder.attention[:, -1]

    before = last_layer()
    with torch.no_grad():
        model.model.language_model.layers[-1].self_attn.o_proj.weight.mul_(3)
    torch.testing.assert_close(last_layer(), before * 3)


def test_a_projection_that_is_not_known_is_named_in_the_error():
    with pytest.raises(TypeError, match=r"no output projection called o_proj.*0, 1"):
        output_projection(torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)))


@pytest.mark.parametrize(
    "call",
    [
        lambda lmm, photo: interp.capture(lmm, photo, "What?", "A dog.", weighting="values"),
        lambda lmm, photo: interp.record(lmm.model, [0], weighting="norm").__enter__(),
    ],
)
def test_an_unknown_weighting_is_refused(tiny_lmm, photo, call):
    with pytest.raises(ValueError, match=r"expected .*'attention', 'value'"):
        call(tiny_lmm, photo)


def test_a_generic_capture_of_the_other_kind_cannot_divide(tiny_lmm, photo):
    words, generic = (
        interp.capture(tiny_lmm, photo, "What?", "A dog.", weighting=kind) for kind in ("attention", "value")
    )
    assert generic.weighting == "value"
    with pytest.raises(ValueError, match="weighting"):
        interp.phrase_maps(words, generic)


def test_streamed_rows_are_weighted_like_those_that_are_read_again(tiny_lmm, photo):
    how = {"phrases": lambda text: [(0, 1)], "weighting": "value", "max_new_tokens": 4, "tokens": "all"}
    sample = Sample("one", photo, "What?")
    (read,), (streamed,) = (
        list(interp.captures(tiny_lmm, [sample], answers="generated", streaming=s, **how)) for s in (False, True)
    )
    torch.testing.assert_close(read.attention, streamed.attention, atol=1e-5, rtol=1e-4)


def test_a_head_that_passes_nothing_on_falls_behind_when_values_count(tiny_lmm):
    """Two heads attend alike; the value of one is taken away (its group's values are zero), and so is its place."""
    from test_effects import CAUSE, ONLOOKER, identity_scenes, plant_cause

    samples = identity_scenes(30, 0)
    plant_cause(tiny_lmm, samples)
    with torch.no_grad():
        tiny_lmm.model.model.language_model.layers[1].self_attn.o_proj.weight.view(-1, 4, 8)[:, ONLOOKER.head] = 0
    looking = interp.rank(tiny_lmm, samples, ["mass_in_mask"], normalise="none", progress=False)
    assert set(looking.scores["mass_in_mask"].top(2)) == {CAUSE, ONLOOKER}
    store = Memory()
    passing = interp.rank(
        tiny_lmm, samples, ["mass_in_mask"], normalise="none", weighting="value", store=store, progress=False
    )
    mean = passing.scores["mass_in_mask"].mean()
    assert passing.scores["mass_in_mask"].top(1) == [CAUSE] and np.isnan(mean[ONLOOKER])
    kept = len(store.entries)
    interp.rank(tiny_lmm, samples, ["mass_in_mask"], normalise="none", store=store, progress=False)
    assert len(store.entries) == 2 * kept  # neither takes the other's batches for its own


def test_masks_are_scored_where_their_image_is(tiny_lmm, photo):
    """`segment` and `compare` take the option, and say in their results which kind it was."""
    made = interp.segment(tiny_lmm, photo, "What?", answer="A dog.", segmenter="threshold", weighting="value")
    assert made.details["weighting"] == "value"
    with pytest.raises(ValueError, match="weighting='attention'"):
        interp.segment(tiny_lmm, photo, "What?", answer="A dog.", preset="paper", weighting="value")
    mask = np.zeros(photo.shape[:2], bool)
    mask[:20, :20] = True
    samples = [Sample(str(i), photo, "What?", "A dog.", (Target("dog", mask),)) for i in range(3)]
    how = {"metrics": ["mass_in_mask"], "names": ("a", "b"), "recall": False, "effects": (), "progress": False}
    found = [interp.compare(tiny_lmm, tiny_lmm, samples, weighting=w, **how).scores for w in ("attention", "value")]
    assert not found[0]["mean"].equals(found[1]["mean"])


def test_a_projection_stored_transposed_gives_the_same_weight():
    from transformers.pytorch_utils import Conv1D

    stored = Conv1D(6, 4)
    torch.testing.assert_close(output_weight(stored, torch.empty(0, 4)), stored.weight.T)


def test_a_projection_of_more_than_the_heads_outputs_is_refused():
    with pytest.raises(TypeError, match="takes 6 numbers and the heads give 4"):
        output_weight(torch.nn.Linear(6, 4), torch.empty(0, 4))


def test_dropout_of_a_model_in_training_does_not_reach_the_norms():
    torch.manual_seed(0)
    linear = torch.nn.Linear(4, 6)
    drops = torch.nn.Sequential(torch.nn.Dropout(0.5), linear).train()
    torch.testing.assert_close(output_weight(drops, torch.empty(0, 4)), linear.weight, atol=1e-5, rtol=1e-4)
    assert drops.training and drops[0].training


def test_a_module_that_gates_its_heads_outputs_is_refused_and_left_as_it_was(tiny_llava, photo):
    """The norm of the projected value would not be what such a head passes on."""
    model, processor = tiny_llava
    batch = processor(images=photo, text="<image>\nA dog.", return_tensors="pt")
    projection = model.model.language_model.layers[1].self_attn.o_proj
    gate = projection.register_forward_pre_hook(lambda _, args: (args[0] * 0.5,))
    try:
        refused = pytest.raises(TypeError, match="changes its heads' outputs before it projects them")
        with torch.no_grad(), refused, interp.record(model, [20], weighting="value"):
            model(**batch)
        assert list(projection._forward_pre_hooks) == [gate.id]
        with torch.no_grad(), interp.record(model, [20]):
            model(**batch)
    finally:
        gate.remove()


def test_weighted_maps_do_not_reach_a_temperature_made_for_attention(tiny_lmm, photo):
    how = {"answer": "A dog.", "segmenter": "threshold", "prompting": "mask"}
    with pytest.raises(ValueError, match="value-weighted maps are as much larger"):
        interp.segment(tiny_lmm, photo, "What?", weighting="value", **how)
    capture = interp.capture(tiny_lmm, photo, "What?", "A dog.", weighting="value")
    with pytest.raises(ValueError, match="give another temperature"):
        interp.segment_capture(capture, photo, interp.load_segmenter("threshold"), prompting="mask")


def test_an_unknown_weighting_stops_a_run_before_its_first_image():
    with pytest.raises(ValueError, match=r"weighting is 'norm'; expected one of 'attention', 'value'"):
        check("reference", "answer", None, 8, 8, "norm")
