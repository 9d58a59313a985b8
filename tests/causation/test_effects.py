"""Effects against one full forward pass per head and sample, and on a model in which one head alone is the cause."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from planted import COLOURS, SLOW, layer_input, scenes
from tiny_models import build as tiny

import interp
from interp import plugins
from interp.answer.replay import Answer, answer_ids
from interp.causation.result import NothingToMeasure
from interp.causation.units import units_of
from interp.causation.upper_layers import Resumable
from interp.types import Head, Sample, Skip, Target
from interp.work.store import Memory

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def samples():
    """Two things each; prompts of unequal length, so that batches are padded."""
    found = []
    for i, s in enumerate(scenes(3)):
        chair = Target("chair", np.roll(s.targets[0].mask, 8, 1))
        prompt = ["What is it?", "Describe the image in detail.", "What?"][i]
        found.append(replace(s, prompt=prompt, answer="A brown dog sits on a chair.", targets=(*s.targets, chair)))
    return found


def naive(lmm, sample, open_intervention, where="answer"):
    """Per phrase: log-probability of the root's tokens and rank of the first, from one whole forward pass."""
    capture = interp.capture(lmm, sample.image, sample.prompt, answer=sample.answer)
    phrases = [p for p in capture.phrases if p.root in ("dog", "chair")]
    text = lmm.family.template(lmm.processor, sample.prompt)
    inputs = lmm.inputs([sample.image], [text])
    ids = answer_ids(lmm.tokenizer, text, sample.answer)
    length = inputs["input_ids"].shape[1]
    whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    rows = None if where == "all" else list(range(length - 1, length - 1 + len(ids)))
    found = []
    for phrase in phrases:
        own = [length - 1 + t for t in phrase.tokens] if where == "word" else rows
        with open_intervention(own, phrase, capture.grid), torch.no_grad():
            call = {**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)}
            logits = lmm.model(**call).logits[0].double()
        said = [logits[length - 1 + t] for t in phrase.tokens]
        logprob = sum((x.log_softmax(-1)[ids[t]]).item() for x, t in zip(said, phrase.tokens, strict=True))
        first = said[0]
        found.append((logprob, int((first > first[ids[phrase.tokens[0]]]).sum()) + 1))
    return np.array(found)


@pytest.mark.parametrize("where", ["word", "answer", "all"])
@pytest.mark.parametrize("mode", ["zero", "mean", "resample"])
def test_effects_of_all_heads_are_those_of_one_full_pass_per_head_and_sample(tiny_lmm, samples, where, mode):
    import contextlib

    reference = None if mode == "zero" else interp.reference(tiny_lmm, samples, draws=5, **QUIET)
    heads = {"L0H1": [(0, 1)], "L2H3": [(2, 3)], "both": [(1, 0), (2, 2)]}
    found = interp.effects(
        tiny_lmm, samples, heads, mode, where=where, reference=reference, draws=1, batch=3, copies=4, seed=3, **QUIET
    )
    assert not found.skipped and len(found.phrases) == 6
    if mode == "resample" and where == "all":
        return  # draws go by position, which padding moves; the rows of one sample are compared in the other cases
    plain = np.concatenate([naive(tiny_lmm, s, lambda *_: contextlib.nullcontext()) for s in samples])
    np.testing.assert_allclose(found.phrases["logprob"], plain[:, 0], atol=1e-4)
    np.testing.assert_array_equal(found.phrases["rank"], plain[:, 1])
    for unit, chosen in enumerate(heads.values()):

        def opened(rows, phrase, grid, chosen=chosen):
            return interp.ablate(tiny_lmm.model, chosen, mode, reference=reference, rows=rows, seed=3)

        after = np.concatenate([naive(tiny_lmm, s, opened, where) for s in samples])
        np.testing.assert_allclose(found.scores["logprob"].values[:, 0, unit], plain[:, 0] - after[:, 0], atol=1e-4)
        np.testing.assert_array_equal(found.scores["rank"].values[:, 0, unit], after[:, 1] - plain[:, 1])


@pytest.mark.parametrize("where", ["word", "answer"])
def test_a_knockout_hides_each_words_own_patches_and_no_other_words(tiny_lmm, samples, where):
    import contextlib

    heads = {"all": "all", "one": [(1, 2)]}
    found = interp.effects(tiny_lmm, samples, heads, "knockout", where=where, draws=1, batch=3, copies=4, **QUIET)
    plain = np.concatenate([naive(tiny_lmm, s, lambda *_: contextlib.nullcontext()) for s in samples])
    assert set(found.phrases["patches"]) == {2}
    for unit, chosen in enumerate((None, [(1, 2)])):
        after = []
        for s in samples:
            masks = {t.phrase: t.mask[::8, ::8] for t in s.targets}

            def opened(rows, phrase, grid, chosen=chosen, masks=masks):
                return interp.knockout(tiny_lmm.model, rows, grid.token_index[masks[phrase.root]], chosen)

            after.append(naive(tiny_lmm, s, opened, where))
        gap = plain[:, 0] - np.concatenate(after)[:, 0]
        np.testing.assert_allclose(found.scores["logprob"].values[:, 0, unit], gap, atol=1e-4)


def test_the_fall_of_later_grounding_is_that_of_captured_maps(tiny_lmm, samples):
    found = interp.effects(tiny_lmm, samples, [(0, 1)], "zero", where="all", metric="mass_in_mask", draws=1, **QUIET)
    metric, want = plugins.get("metrics", "mass_in_mask"), []
    for s in samples:

        def later(s=s):
            maps = interp.phrase_maps(interp.capture(tiny_lmm, s.image, s.prompt, answer=s.answer), "none")
            own = [i for i, p in enumerate(maps.phrases) if p.root in ("dog", "chair")]
            masks = torch.stack([torch.from_numpy(t.mask[::8, ::8]).float() for t in s.targets])
            return metric.score(maps.maps[own], masks, torch.zeros_like(masks))[:, 1:].mean((1, 2))

        before = later()
        with interp.ablate(tiny_lmm.model, [(0, 1)]):
            want.append(before - later())
    np.testing.assert_allclose(found.scores["grounding"].values[:, 0, 0], torch.cat(want), atol=1e-5)


def test_naming_is_asked_of_the_answer_that_the_ablated_model_generates(tiny_lmm, samples, monkeypatch):
    """Each head's ablation reaches the generation: with it, the model's text is that of generating under `ablate`."""
    heard = []
    batch_decode = tiny_lmm.tokenizer.batch_decode
    monkeypatch.setattr(
        type(tiny_lmm.tokenizer),
        "batch_decode",
        lambda self, ids, **k: heard.append(batch_decode(ids, **k)) or heard[-1],
    )
    heads = [(0, 1), (1, 2)]
    found = interp.effects(
        tiny_lmm, samples, heads, "zero", where="all", generate=True, draws=1, max_new_tokens=6, **QUIET
    )
    got, heard[:] = [x[:] for x in heard], []
    assert found.scores["named"].values.shape == (6, 1, 2)
    for unit, head in enumerate([None, *heads]):
        with interp.ablate(tiny_lmm.model, [head] if head else []):
            tiny_lmm.generate_batch([s.image for s in samples], [s.prompt for s in samples], 6)
        assert heard[-1] == got[unit]


def identity_scenes(n, seed):
    """A patchwork in which two patches are one thing: red is the dog, green the chair. The answer names it."""
    rng = np.random.default_rng(seed)
    found = []
    for i in range(n):
        which = int(rng.integers(2))
        colour = rng.integers(2, len(COLOURS), (4, 4))
        y, x = rng.integers(0, 3), rng.integers(0, 4)
        colour[y : y + 2, x] = which
        image = COLOURS[colour].repeat(8, 0).repeat(8, 1) + rng.integers(-20, 21, (32, 32, 3))
        name = ("dog", "chair")[which]
        target = Target(name, (colour == which).repeat(8, 0).repeat(8, 1))
        answer = f"A brown {name}."
        found.append(Sample(f"image {i}", image.astype(np.uint8), "What is it?", answer, (target,)))
    return found


CAUSE, ONLOOKER = Head(1, 2), Head(1, 0)


def plant_cause(lmm, samples, strength=8.0, loud=6.0):
    """Two heads of layer 1 look at the thing; one of them writes what it is to the word's logits, the other nothing.

    Keys and the value "red or green" are linear in the layer's input, found by least squares. All other heads attend
    as they did, but write nothing either.
    """
    with torch.no_grad():
        for block in lmm.model.model.language_model.layers:
            block.self_attn.o_proj.weight.zero_()
    hidden, ids = layer_input(lmm, samples, 1)
    patch = ids == lmm.model.config.image_token_id
    mask = np.stack([s.targets[0].mask[::8, ::8] for s in samples])
    sign = np.array([1.0 if s.targets[0].phrase == "dog" else -1.0 for s in samples])
    there, which = torch.zeros(ids.shape), torch.zeros(ids.shape)
    there[patch] = torch.from_numpy(mask).float().flatten()
    which[patch] = torch.from_numpy(mask * sign[:, None, None]).float().flatten()
    flat, at = hidden.flatten(0, 1), patch.flatten()
    solve = lambda rows, target: torch.linalg.lstsq(flat[rows], target[:, None]).solution[:, 0]  # noqa: E731
    key, value = solve(slice(None), there.flatten()), solve(slice(None), which.flatten())
    query = solve(~at, torch.ones(int((~at).sum())))
    layer = lmm.model.model.language_model.layers[1].self_attn
    width, dim = layer.head_dim, flat.shape[1]
    text = lmm.family.template(lmm.processor, "What is it?")
    first = [answer_ids(lmm.tokenizer, text, f"A brown {n}.") for n in ("dog", "chair")]
    place = next(i for i, (a, b) in enumerate(zip(*first, strict=False)) if a != b)
    unembed = lmm.model.get_output_embeddings().weight
    direction = unembed[first[0][place]] - unembed[first[1][place]]
    with torch.no_grad():
        out = layer.o_proj.weight.view(-1, 4, width)
        queries = layer.q_proj.weight.view(4, width, dim)
        for head in (CAUSE, ONLOOKER):
            group = head.head // 2
            queries[group * 2 : group * 2 + 2, [SLOW, SLOW + width // 2]] = 0.0
            queries[head.head] = 0.0
            queries[head.head, SLOW] = query * strength * width**0.5
            keys = layer.k_proj.weight.view(2, width, dim)
            keys[group, SLOW], keys[group, SLOW + width // 2] = key, 0.0
        layer.v_proj.weight.view(2, width, dim)[1, 0] = value
        out[:, CAUSE.head, 0] = loud * direction / direction.norm()


@pytest.mark.parametrize("seed", [0, 1, *(pytest.param(s, marks=pytest.mark.slow) for s in range(2, 10))])
def test_grounding_ranks_both_planted_heads_but_only_the_one_that_writes_is_a_cause(make_tiny_llava, seed):
    lmm = interp.wrap(*make_tiny_llava(seed))
    samples = identity_scenes(70, seed)
    plant_cause(lmm, samples[:30])
    test = samples[30:]
    ranking = interp.rank(lmm, test, ["mass_in_mask"], normalise="none", **QUIET)
    assert set(ranking.scores["mass_in_mask"].top(2)) == {CAUSE, ONLOOKER}
    found = interp.effects(lmm, test, "all", "mean", **QUIET)
    rows = found.frame[found.frame["measure"] == "logprob"].set_index("unit")
    assert list(rows.index[rows["p_corrected"] < 0.05]) == [str(CAUSE)]
    assert rows["mean"].idxmax() == str(CAUSE) and rows.loc[str(CAUSE), "low"] > 0
    assert abs(rows.loc[str(ONLOOKER), "mean"]) < 1e-5
    keys = {"own": 0.0, "background": 0.0}
    for which in keys:
        cut = interp.effects(lmm, test, [CAUSE], "knockout", keys=which, draws=1, **QUIET)
        keys[which] = cut.frame.loc[cut.frame["measure"] == "logprob", "mean"].iloc[0]
    assert keys["own"] > 0.5 * rows.loc[str(CAUSE), "mean"] and abs(keys["background"]) < 0.2 * keys["own"]


def test_random_sets_have_the_size_and_the_layers_of_the_unit_and_are_not_the_unit():
    heads = {"top": [(0, 1), (2, 3), (2, 5)], "layer": [(1, h) for h in range(8)]}
    units = units_of(heads, 3, 8, draws=6, seed=0)
    assert len(units.nulls[0]) > 1 and not units.nulls[1]
    for place in units.nulls[0]:
        assert Counter(h.layer for h in units.all[place]) == {0: 1, 2: 2}
        assert units.all[place] != units.asked[0]
    single = units_of("all", 3, 8, draws=2, seed=0)
    assert len(single.all) == 24  # every other head of the layer stands beside each: nothing more is computed
    assert {single.all[i] for i in single.nulls[9]} == {(Head(1, h),) for h in range(8) if h != 1}


def test_a_run_that_was_killed_goes_on_with_the_same_numbers(tiny_lmm, samples, monkeypatch):
    whole = interp.effects(tiny_lmm, samples, batch=1, **QUIET)
    store, calls = Memory(), []
    measure = interp.causation.batch.measure

    def dies(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measure(*arguments)

    monkeypatch.setattr("interp.causation.harm.measure", dies)
    with pytest.raises(KeyboardInterrupt):
        interp.effects(tiny_lmm, samples, batch=1, store=store, **QUIET)
    again = interp.effects(tiny_lmm, samples, batch=1, store=store, **QUIET)
    assert len(calls) == 4
    assert again.frame.equals(whole.frame)


def test_the_batch_does_not_matter(tiny_lmm, samples):
    one, three = (interp.effects(tiny_lmm, samples, batch=b, copies=c, **QUIET) for b, c in ((1, 5), (3, 64)))
    for name, score in one.scores.items():
        np.testing.assert_allclose(score.values, three.scores[name].values, atol=2e-4)


def test_a_sample_that_cannot_be_read_is_skipped_with_its_reason_and_the_rest_is_measured(tiny_lmm, samples):
    odd = [
        Skip("gone", "no file"),
        replace(samples[1], id="mute", answer=None),
        replace(samples[0], id="wordless", answer="It is."),
    ]
    found = interp.effects(tiny_lmm, [*odd, samples[2]], [(0, 0)], "zero", draws=1, **QUIET)
    assert {s.sample_id for s in found.skipped} == {"gone", "mute", "wordless"} and len(found.phrases) == 2
    with pytest.raises(NothingToMeasure, match="no file"):
        interp.effects(tiny_lmm, odd[:1], [(0, 0)], "zero", **QUIET)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"intervention": "median"}, "intervention is 'median'"),
        ({"intervention": "knockout", "where": "all"}, "where='word'"),
        ({"keys": "corners"}, "keys is 'corners'"),
        ({"heads": [(9, 0)]}, "no such heads"),
        ({"heads": {}}, "no heads in"),
        ({"heads": {"a": [(0, 1)], "b": [(0, 1)]}}, "the same heads"),
        ({"draws": 0}, "draws is 0"),
    ],
)  # fmt: skip
def test_bad_options_are_refused_before_anything_is_computed(tiny_lmm, samples, options, message):
    with pytest.raises(ValueError, match=message):
        interp.effects(tiny_lmm, samples, **{**QUIET, **options})


def test_the_model_is_as_it_was_after_effects_also_when_they_fail(tiny_lmm, samples, monkeypatch):
    from transformers import AttentionInterface

    model, lookup = tiny_lmm.model, AttentionInterface.get_interface

    def state():
        return [
            (len(m._forward_hooks) + len(m._forward_pre_hooks), m.training, "forward" in vars(m))
            for m in model.modules()
        ]

    tiny_lmm.generate(samples[0].image, "What?", 1)  # transformers' own hooks come with the first pass
    before = state()
    interp.effects(tiny_lmm, samples, [(1, 1)], generate=True, max_new_tokens=3, draws=1, **QUIET)
    assert state() == before
    monkeypatch.setattr("interp.causation.upper_layers.Resumable.run", lambda *a, **options: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        interp.effects(tiny_lmm, samples, [(1, 1)], "zero", draws=1, **QUIET)
    assert state() == before and AttentionInterface.get_interface is lookup


def test_the_reference_is_the_mean_over_the_rows_that_predict_the_answer(tiny_lmm, samples):
    found = interp.reference(tiny_lmm, samples, draws=7, batch=2, **QUIET)
    rows = []
    for s in samples:
        text = tiny_lmm.family.template(tiny_lmm.processor, s.prompt)
        inputs = tiny_lmm.inputs([s.image], [text])
        ids = answer_ids(tiny_lmm.tokenizer, text, s.answer)
        length = inputs["input_ids"].shape[1]
        whole = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
        given = []
        hooks = [
            layer.self_attn.o_proj.register_forward_pre_hook(lambda _, args, given=given: given.append(args[0][0]))
            for layer in tiny_lmm.model.model.language_model.layers
        ]
        with torch.no_grad():
            tiny_lmm.model(**{**inputs, "input_ids": whole, "attention_mask": torch.ones_like(whole)})
        [hook.remove() for hook in hooks]
        rows.append(torch.stack(given, 1)[length - 1 : length - 1 + len(ids)].unflatten(-1, (4, -1)))
    rows = torch.cat(rows)
    assert found.count == len(rows) and len(found.draws) == 7
    torch.testing.assert_close(found.mean, rows.mean(0), atol=1e-5, rtol=1e-5)
    near = torch.cdist(found.draws.flatten(1), rows.flatten(1)).min(1)
    assert (near.values < 1e-4).all() and len(set(near.indices.tolist())) == 7
    other = interp.reference(tiny_lmm, samples[::-1], draws=7, batch=1, **QUIET)
    order = lambda x: x[x[:, 0, 0, 0].argsort()]  # noqa: E731
    torch.testing.assert_close(order(other.draws), order(found.draws), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["llava", "qwen2_5_vl", "glm4v", "paligemma"])
def test_a_generation_from_the_known_prompt_is_the_one_that_reads_the_prompt_anew(family):
    """Answers under each unit would else be those of another prompt, position or mask."""
    model, processor = tiny(family)
    lmm = interp.wrap(model, processor)
    images = [np.random.default_rng(i).integers(0, 256, (48, 64, 3), dtype=np.uint8) for i in range(2)]
    inputs = lmm.inputs(images, [lmm.template("What?"), lmm.template("What is there in it?")])
    ids = [[int(x) for x in row] for row in lmm.generate_ids(inputs, 3).sequences[:, inputs["input_ids"].shape[1] :]]
    resumable, first, read = Resumable(lmm, inputs, ids), inputs["input_ids"].shape[1] - 1, []
    with interp.ablate(lmm.model, [(0, 1)], "zero", rows=range(first, first + 7)):
        whole = lmm.generate_ids(inputs, 6, output_logits=True)
        hook = lmm.model.get_output_embeddings().register_forward_pre_hook(lambda _, args: read.append(args[0].shape))
        layer = next(m for m in lmm.decoder.modules() if isinstance(m, torch.nn.ModuleList))[0]
        seen = layer.register_forward_pre_hook(
            lambda _, args, kwargs: read.append((args[0] if args else kwargs["hidden_states"]).shape[1]),
            with_kwargs=True,
        )
        with resumable.prompt_known(inputs):
            known = lmm.generate_ids(inputs, 6, output_logits=True)
        hook.remove(), seen.remove()
    assert torch.equal(known.sequences, whole.sequences)
    torch.testing.assert_close(torch.stack(known.logits), torch.stack(whole.logits), atol=1e-4, rtol=1e-4)
    longest = max(n for n in read if isinstance(n, int))
    assert (longest == 1) == (family != "paligemma")  # its prompt sees its last token


def test_naming_where_the_answer_alone_is_changed_is_that_of_generating_under_ablate(tiny_lmm, samples, monkeypatch):
    """The prompt is read once for all units, and no more of it than is the same for all of them."""
    heard, batch_decode = [], tiny_lmm.tokenizer.batch_decode
    monkeypatch.setattr(
        type(tiny_lmm.tokenizer),
        "batch_decode",
        lambda self, ids, **k: heard.append(batch_decode(ids, **k)) or heard[-1],
    )
    heads = [(0, 1), (1, 2)]
    interp.effects(tiny_lmm, samples, heads, "zero", generate=True, draws=1, max_new_tokens=6, **QUIET)
    got, heard[:] = [x[:] for x in heard], []
    prompts = [s.prompt for s in samples]
    first = tiny_lmm.inputs([s.image for s in samples], [tiny_lmm.template(p) for p in prompts])["input_ids"].shape[1]
    for unit, head in enumerate([None, *heads]):
        with interp.ablate(tiny_lmm.model, [head] if head else [], rows=range(first - 1, first + 6)):
            tiny_lmm.generate_batch([s.image for s in samples], prompts, 6)
        assert heard[-1] == got[unit]


def test_a_batch_is_read_once_for_all_studies_of_a_cause(tiny_lmm, samples, monkeypatch):
    """Each of nine studies would decode, generate and parse it anew."""
    walks, generated, plain = [], [], interp.LMM.generate_ids

    class Counted:
        def __iter__(self):
            walks.append(0)  # of a walk that begins
            yield from samples

    monkeypatch.setattr(
        interp.LMM,
        "generate_ids",
        lambda self, inputs, most, **how: generated.append(0) or plain(self, inputs, most, **how),
    )
    answer = Answer(answer_ids(tiny_lmm.tokenizer, "", "A brown dog sits on a chair."))
    monkeypatch.setattr("interp.answer.replay._answers", lambda lmm, ids: [answer] * len(ids))
    interp.cause(tiny_lmm, Counted(), answers="generated", draws=1, max_new_tokens=4, batch=len(samples), **QUIET)
    assert len(walks) == 1
    assert len(generated) == 2  # for the ranking, and for all effects
