"""Interventions against models whose weights or masks were changed by hand, and against a plain softmax."""

from __future__ import annotations

import contextlib
import copy
import itertools

import pytest
import torch

import interp
from interp.attention.ablation import Reference

LENGTH, HEADS, LAYERS, DIM = 12, 4, 3, 8


@pytest.fixture
def llama():
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=HEADS * DIM, intermediate_size=48, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=2, initializer_range=0.3, pad_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


@pytest.fixture
def ids():
    return torch.randint(1, 50, (2, LENGTH), generator=torch.Generator().manual_seed(1))


def logits(model, ids, **kwargs):
    with torch.no_grad():
        return model(input_ids=ids, **kwargs).logits


def without_columns(model, chosen):
    """A copy whose output projections have no columns for the chosen heads: what zero ablation must equal."""
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for layer, head in chosen:
            changed.model.layers[layer].self_attn.o_proj.weight[:, head * DIM : (head + 1) * DIM] = 0
    return changed


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_a_head_set_to_zero_is_the_model_without_its_part_of_the_output_projection(llama, ids, kernel):
    llama.set_attn_implementation(kernel)
    chosen = [(0, 1), (2, 3), (2, 0)]
    with interp.ablate(llama, chosen):
        found = logits(llama, ids)
    torch.testing.assert_close(found, logits(without_columns(llama, chosen), ids), atol=1e-5, rtol=1e-5)
    assert not torch.equal(found, logits(llama, ids))


def test_heads_per_sample_ablate_only_their_own_sample_of_the_batch(llama, ids):
    with interp.ablate(llama, [[(1, 2)], []]):
        found = logits(llama, ids)
    torch.testing.assert_close(found[:1], logits(without_columns(llama, [(1, 2)]), ids[:1]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found[1], logits(llama, ids)[1], atol=0, rtol=0)


def test_the_mean_and_the_draws_of_the_reference_reach_the_rows_that_were_asked(llama, ids):
    values = torch.randn(5, LAYERS, HEADS, DIM, generator=torch.Generator().manual_seed(2))
    reference = Reference(values.mean(0), values, 5)
    for mode in ("mean", "resample"):
        with (
            interp.ablate(llama, [(1, 2)], mode, reference=reference, rows=[3, 7], seed=4),
            interp.head_outputs(llama, range(LENGTH)) as after,
        ):
            logits(llama, ids)
        with interp.head_outputs(llama, range(LENGTH)) as before:
            logits(llama, ids)
        new, old = after.outputs[:, 1], before.outputs[:, 1]
        same = [r for r in range(LENGTH) if r not in (3, 7)]
        torch.testing.assert_close(new[:, :, same], old[:, :, same], atol=0, rtol=0)
        torch.testing.assert_close(new[:, [0, 1, 3]], old[:, [0, 1, 3]], atol=0, rtol=0)
        put = new[:, 2][:, [3, 7]]
        if mode == "mean":
            torch.testing.assert_close(put, values.mean(0)[1, 2].expand(2, 2, -1))
        else:
            assert all((row == values[:, 1, 2]).all(-1).any() for row in put.flatten(0, 1))
            with interp.ablate(llama, [(1, 2)], mode, reference=reference, rows=[3, 7], seed=4):
                again = logits(llama, ids)
            with interp.ablate(llama, [(1, 2)], mode, reference=reference, rows=[3, 7], seed=4):
                torch.testing.assert_close(logits(llama, ids), again, atol=0, rtol=0)


def test_head_outputs_are_what_the_output_projection_is_given(llama, ids):
    given = []
    hook = llama.model.layers[1].self_attn.o_proj.register_forward_pre_hook(lambda _, args: given.append(args[0]))
    with interp.head_outputs(llama, torch.tensor([[2, 5], [11, -1]]), layers=[1]) as seen:
        logits(llama, ids)
    hook.remove()
    want = given[0].view(2, LENGTH, HEADS, DIM)
    torch.testing.assert_close(seen.outputs[0, 0].transpose(0, 1), want[0, [2, 5]], atol=0, rtol=0)
    torch.testing.assert_close(seen.outputs[1, 0, :, 0], want[1, 11], atol=0, rtol=0)
    assert seen.outputs[1, 0, :, 1].isnan().all()


def masked(model, ids, edges, padding=None):
    """Logits of the eager model where the causal mask of all heads hides the edges (sample, query, key) as well."""
    batch, length = ids.shape
    allowed = torch.ones(length, length).tril().bool().expand(batch, 1, -1, -1).clone()
    if padding is not None:
        allowed &= padding[:, None, None, :].bool()
        allowed |= torch.eye(length, dtype=torch.bool)
    for sample, query, key in edges:
        allowed[sample, :, query, key] = False
    changed = copy.deepcopy(model)
    changed.set_attn_implementation("eager")
    mask = torch.zeros(allowed.shape).masked_fill(~allowed, torch.finfo(torch.float32).min)
    positions = None if padding is None else (padding.cumsum(1) - 1).clamp(min=0)
    return logits(changed, ids, attention_mask=mask, position_ids=positions)


@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_knocked_out_edges_are_as_if_the_mask_had_hidden_them_in_each_sample_of_a_padded_batch(llama, ids, kernel):
    llama.set_attn_implementation(kernel)
    padding = torch.ones_like(ids)
    padding[1, :3] = 0
    queries, keys = torch.tensor([[9, 11], [10, -1]]), torch.tensor([[1, 2, 4], [5, 6, -1]])
    edges = [(0, q, k) for q in (9, 11) for k in (1, 2, 4)] + [(1, 10, k) for k in (5, 6)]
    with interp.knockout(llama, queries, keys):
        found = logits(llama, ids, attention_mask=padding, position_ids=(padding.cumsum(1) - 1).clamp(min=0))
    want = masked(llama, ids, edges, padding)
    real = padding.bool()
    torch.testing.assert_close(found[real], want[real], atol=2e-5, rtol=1e-5)
    rows = [r for r in range(9)]
    plain = logits(llama, ids, attention_mask=padding, position_ids=(padding.cumsum(1) - 1).clamp(min=0))
    torch.testing.assert_close(found[0, rows], plain[0, rows], atol=0, rtol=0)


def test_a_knockout_in_one_head_renormalises_that_head_and_leaves_all_others_bit_for_bit(llama, ids):
    with (
        interp.knockout(llama, [8], [0, 3], heads=[(1, 2)]),
        interp.record(llama, range(LENGTH)) as seen,
        interp.head_outputs(llama, range(LENGTH)) as out,
    ):
        logits(llama, ids)
    with interp.record(llama, range(LENGTH)) as before, interp.head_outputs(llama, range(LENGTH)) as was:
        logits(llama, ids)
    old, new = before.attention[:, 1], seen.attention[:, 1]
    want = old[:, 2, 8].clone()
    want[:, [0, 3]] = 0
    torch.testing.assert_close(new[:, 2, 8], want / want.sum(-1, keepdim=True), atol=1e-6, rtol=1e-5)
    keep = torch.ones(HEADS, LENGTH, dtype=torch.bool)
    keep[2, 8] = False
    assert torch.equal(new[:, keep], old[:, keep])
    assert torch.equal(out.outputs[:, 1][:, keep], was.outputs[:, 1][:, keep])
    assert not torch.equal(out.outputs[:, 1, 2, 8], was.outputs[:, 1, 2, 8])


@pytest.mark.parametrize("inner", ["knockout", "record"])
def test_nested_knockouts_of_one_row_add_up_and_recorders_see_the_result_on_either_side(llama, ids, inner):
    def recording():
        return interp.record(llama, [10])

    with contextlib.ExitStack() as stack:
        outside = stack.enter_context(recording()) if inner == "knockout" else None
        stack.enter_context(interp.knockout(llama, [10], [1]))
        stack.enter_context(interp.knockout(llama, [9, 10], [4, 5]))
        seen = outside or stack.enter_context(recording())
        found = logits(llama, ids)
    edges = [(s, 10, k) for s in (0, 1) for k in (1, 4, 5)] + [(s, 9, k) for s in (0, 1) for k in (4, 5)]
    torch.testing.assert_close(found, masked(llama, ids, edges), atol=2e-5, rtol=1e-5)
    assert (seen.attention[..., 0, [1, 4, 5]] == 0).all()
    torch.testing.assert_close(seen.attention.sum(-1), torch.ones(2, LAYERS, HEADS, 1))


def test_an_ablation_and_a_knockout_hold_over_a_cache_and_step_by_step(llama, ids):
    def both():
        stack = contextlib.ExitStack()
        stack.enter_context(interp.ablate(llama, [(0, 1), (2, 2)], rows=[6, 9, 11]))
        stack.enter_context(interp.knockout(llama, [7, 9], [0, 2, 5], heads=[(1, 0), (1, 1), (2, 2)]))
        return stack

    with both():
        want = logits(llama, ids)
    from transformers import DynamicCache

    for cuts in ([0, 5, LENGTH], [0, *range(4, LENGTH + 1)]):
        cache, parts = DynamicCache(config=llama.config), []
        with both():
            for a, b in itertools.pairwise(cuts):
                parts.append(logits(llama, ids[:, a:b], past_key_values=cache))
        torch.testing.assert_close(torch.cat(parts, 1), want, atol=2e-5, rtol=1e-5)


def test_output_attentions_of_an_eager_model_show_the_knockout(llama, ids):
    llama.set_attn_implementation("eager")
    with interp.knockout(llama, [6], [2]), torch.no_grad():
        seen = llama(input_ids=ids, output_attentions=True).attentions[1]
    assert (seen[:, :, 6, 2] == 0).all() and (seen[:, :, 7, 2] > 0).all()
    torch.testing.assert_close(seen[:, :, 6].sum(-1), torch.ones(2, HEADS))


def test_bf16_models_take_both_and_keep_their_precision(llama, ids):
    llama.to(torch.bfloat16)
    with interp.ablate(llama, [(0, 0)]), interp.knockout(llama, [5], [1, 2]):
        found = logits(llama, ids)
    assert found.dtype == torch.bfloat16 and torch.isfinite(found).all()
    wide = copy.deepcopy(llama).float()
    with interp.ablate(wide, [(0, 0)]), interp.knockout(wide, [5], [1, 2]):
        torch.testing.assert_close(found.float(), logits(wide, ids), atol=0.15, rtol=0.1)


def test_the_model_leaves_as_it_came_also_after_an_exception(llama, ids):
    from transformers import AttentionInterface

    before, lookup = logits(llama, ids), AttentionInterface.get_interface
    hooks = [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in llama.modules()]
    with pytest.raises(RuntimeError, match="stop"), interp.ablate(llama, [(0, 0)]), interp.knockout(llama, [5], [1]):
        logits(llama, ids)
        raise RuntimeError("stop")
    assert AttentionInterface.get_interface is lookup
    assert hooks == [len(m._forward_pre_hooks) + len(m._forward_hooks) for m in llama.modules()]
    assert torch.equal(logits(llama, ids), before)


def test_gradients_flow_through_what_is_left(llama, ids):
    with interp.knockout(llama, [5], [1]), interp.ablate(llama, [(1, 1)]):
        llama(input_ids=ids).logits[:, 5].sum().backward()
    values = llama.model.layers[2].self_attn.v_proj.weight.grad
    assert torch.isfinite(values).all() and values.abs().sum() > 0
    columns = llama.model.layers[1].self_attn.o_proj.weight.grad.view(-1, HEADS, DIM).abs().sum((0, 2))
    assert columns[1] == 0 and (columns[[0, 2, 3]] > 0).all()  # nothing came through the head that was taken away


def of_two_heads():
    return Reference(torch.zeros(3, 2, DIM), torch.zeros(1, 3, 2, DIM), 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda m: interp.ablate(m, [(7, 0)]), "layers"),
        (lambda m: interp.ablate(m, [(0, 9)]), "no head L0H9"),
        (lambda m: interp.ablate(m, ["best"]), "pairs"),
        (lambda m: interp.ablate(m, [(0, -1)]), "pairs"),
        (lambda m: interp.ablate(m, [(0, 1)], "median"), "mode is 'median'"),
        (lambda m: interp.ablate(m, [(0, 1)], "mean"), "interp.reference"),
        (lambda m: interp.ablate(m, [[(0, 1)]] * 3), "3 samples"),
        (lambda m: interp.ablate(m, [(0, 1)], "mean", reference=of_two_heads()), "3 layers with 2 heads"),
        (lambda m: interp.knockout(m, [0], [0]), "without any key"),
        (lambda m: interp.knockout(m, [3], [-4]), "keys must be whole numbers"),
        (lambda m: interp.knockout(m, torch.tensor([[1], [2], [3]]), [0]), "3 samples"),
    ],
)  # fmt: skip
def test_bad_input_is_named_before_it_becomes_a_wrong_number(llama, ids, make, message):
    with pytest.raises(ValueError, match=message), make(llama):
        logits(llama, ids)
