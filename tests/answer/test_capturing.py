import copy
import inspect

import numpy as np
import pytest
import torch

import interp
from interp.answer.capturing import capture, captures
from interp.answer.replay import CaptureError, answer_ids
from interp.types import Sample, Skip

# Random models ramble to their limit, so that a last word may be cut off.
pytestmark = pytest.mark.filterwarnings("ignore:left out")

PROMPT = "Describe the image in detail."
ANSWER = "A brown dog sits on a red chair beside an old umbrella."


@pytest.fixture
def speaking_lmm(make_tiny_llava, tiny_tokenizer):
    """A model that generates whole known words alone, so that its text has one tokenisation only."""
    model, processor = make_tiny_llava(seed=1)
    words = {i for t, i in tiny_tokenizer.get_vocab().items() if t.startswith("▁") and len(t) > 3}
    model.generation_config.suppress_tokens = sorted(set(range(len(tiny_tokenizer))) - words)
    return interp.wrap(model, processor)


def eager_columns(lmm, image, prompt, ids, grid, query):
    """Independent: one unpadded eager pass over prompt and answer with output_attentions, cut to rows and columns."""
    model = copy.deepcopy(lmm.model)
    model.set_attn_implementation("eager")
    inputs = lmm.inputs([image], [lmm.family.template(lmm.processor, prompt)])
    length = inputs["input_ids"].shape[1]
    inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([ids])], 1)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.no_grad():
        out = model(**inputs, output_attentions=True)
    whole = torch.stack(out.attentions)[:, 0]  # layer head query key
    rows = torch.arange(len(ids)) + length - int(query == "predicting")
    cut = whole[:, :, rows][..., torch.from_numpy(grid.token_index.reshape(-1))]
    logprobs = out.logits[0, length - 1 : -1].log_softmax(-1).gather(-1, torch.tensor(ids)[:, None])[:, 0]
    return cut.permute(2, 0, 1, 3).reshape(len(ids), *cut.shape[:2], *grid.shape), logprobs


def ids_of(lmm, captured):
    return lmm.tokenizer.convert_tokens_to_ids(list(captured.tokens))


@pytest.mark.parametrize("query", ["predicting", "self"])
@pytest.mark.parametrize("answer", [None, ANSWER])
def test_rows_equal_eager_attention(tiny_lmm, photo, query, answer):
    got = capture(tiny_lmm, photo, PROMPT, answer, tokens="all", query=query, max_new_tokens=9)
    want, logprobs = eager_columns(tiny_lmm, photo, PROMPT, ids_of(tiny_lmm, got), got.grid, query)
    assert want.std() > 1e-3  # the attention is not uniform, so that a wrong row or column shows
    torch.testing.assert_close(got.attention, want, atol=1e-6, rtol=0)
    torch.testing.assert_close(got.mean, want.mean(0), atol=1e-6, rtol=0)
    np.testing.assert_allclose(got.logprobs, logprobs, atol=1e-4)
    assert got.query == query and len(got.kept) == len(got.tokens)


@pytest.mark.parametrize("query", ["predicting", "self"])
def test_streaming_and_replay_agree(speaking_lmm, photo, query):
    replayed, streamed = (
        capture(speaking_lmm, photo, PROMPT, tokens="all", query=query, streaming=s, max_new_tokens=11)
        for s in (False, True)
    )
    assert replayed.tokens == streamed.tokens
    torch.testing.assert_close(replayed.attention, streamed.attention, atol=1e-5, rtol=0)
    np.testing.assert_allclose(replayed.logprobs, streamed.logprobs, atol=1e-4)


def test_a_generated_answer_given_again_has_the_same_rows(speaking_lmm, photo):
    said = capture(speaking_lmm, photo, PROMPT, tokens="all", max_new_tokens=11)
    again = capture(speaking_lmm, photo, PROMPT, said.answer, tokens="all")
    assert again.tokens == said.tokens and again.answer == said.answer
    torch.testing.assert_close(again.attention, said.attention, atol=1e-5, rtol=0)
    np.testing.assert_allclose(again.logprobs, said.logprobs, atol=1e-4)


def released_rows(lmm, image, limit):
    """As the released code has them: generated under eager attention, the last query row of every step, its end too."""
    model = copy.deepcopy(lmm.model)
    model.set_attn_implementation("eager")
    inputs = lmm.inputs([image], [lmm.family.template(lmm.processor, PROMPT)])
    out = model.generate(
        **inputs, max_new_tokens=limit, do_sample=False, output_attentions=True, return_dict_in_generate=True
    )
    rows = torch.stack([torch.stack(step)[:, 0, :, -1, : inputs["input_ids"].shape[1]] for step in out.attentions])
    return rows, out.sequences[0, inputs["input_ids"].shape[1] :].tolist()


@pytest.mark.parametrize("streaming", [False, True])
def test_the_mean_of_a_preset_is_that_of_the_released_code_over_all_steps_and_the_end(speaking_lmm, photo, streaming):
    lmm, limit = speaking_lmm, 8
    words = ids_of(lmm, capture(lmm, photo, PROMPT, tokens="all", max_new_tokens=limit))
    end = next(word for i, word in enumerate(words) if i > 2 and word not in words[:i])
    lmm.model.generation_config.eos_token_id = [lmm.tokenizer.eos_token_id, end]
    rows, ids = released_rows(lmm, photo, limit)
    size = len(ids) - 1
    assert len(rows) == len(ids) <= limit and ids[-1] == end
    options = dict(max_new_tokens=limit, streaming=streaming, tokens="all")
    with_end, without = (capture(lmm, photo, PROMPT, end=e, **options) for e in (True, False))
    patches = torch.from_numpy(with_end.grid.token_index.reshape(-1))
    want = rows[..., patches].unflatten(-1, with_end.grid.shape)
    assert len(with_end.tokens) == size and with_end.end and not without.end
    torch.testing.assert_close(with_end.mean, want.mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(without.mean, want[:-1].mean(0), atol=1e-6, rtol=0)
    torch.testing.assert_close(with_end.attention, without.attention)
    if not streaming:  # given again, it has ended too
        again = capture(lmm, photo, PROMPT, with_end.answer, tokens="all", end=True)
        torch.testing.assert_close(again.mean, want.mean(0), atol=1e-5, rtol=0)
    cut = capture(lmm, photo, PROMPT, end=True, **options | {"max_new_tokens": size})  # cut off, it has no end
    torch.testing.assert_close(cut.mean, want[:-1].mean(0), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="predicting"):
        capture(lmm, photo, PROMPT, query="self", end=True)


def test_the_ends_of_a_batch_of_unlike_answers_are_those_of_each_alone(speaking_lmm):
    for got, sample in zip(captures(speaking_lmm, samples(), batch=5, end=True), samples(), strict=True):
        alone = capture(speaking_lmm, sample.image, sample.prompt, sample.answer, end=True)
        torch.testing.assert_close(got.mean, alone.mean, atol=1e-6, rtol=0)


def samples(n=5):
    rng = np.random.default_rng(1)
    prompts = [PROMPT, "What is on the left?", "The picture shows a cat and a dog. What is in front of the blue house?"]
    answers = [ANSWER, "A cat.", "The picture shows two cups and an old umbrella in front of a blue house."]
    return [
        Sample(str(i), rng.integers(0, 256, (40 + i, 52, 3), dtype=np.uint8), prompts[i % 3], answers[i % 3])
        for i in range(n)
    ]


@pytest.mark.parametrize("query", ["predicting", "self"])
@pytest.mark.parametrize("answers, streaming", [("reference", False), ("generated", False), ("generated", True)])
def test_a_left_padded_batch_equals_single_samples(speaking_lmm, query, answers, streaming):
    options = dict(tokens="all", query=query, streaming=streaming, max_new_tokens=10)
    together = list(captures(speaking_lmm, samples(), answers=answers, batch=3, **options))
    for got, sample in zip(together, samples(), strict=True):
        answer = sample.answer if answers == "reference" else None
        alone = capture(speaking_lmm, sample.image, sample.prompt, answer, sample_id=sample.id, **options)
        assert (got.sample_id, got.tokens, got.grid.box) == (alone.sample_id, alone.tokens, alone.grid.box)
        np.testing.assert_array_equal(got.grid.token_index, alone.grid.token_index)
        torch.testing.assert_close(got.attention, alone.attention, atol=1e-5, rtol=0)
        torch.testing.assert_close(got.mean, alone.mean, atol=1e-5, rtol=0)
        np.testing.assert_allclose(got.logprobs, alone.logprobs, atol=1e-4)


def test_answers_that_end_early_do_not_disturb_the_longer_ones(speaking_lmm, tiny_tokenizer):
    # One word is declared an end of the answer, so that the samples of a batch end at different steps.
    plain = list(captures(speaking_lmm, samples(), answers="generated", tokens="all", max_new_tokens=10))
    end = ids_of(speaking_lmm, plain[0])[4]
    speaking_lmm.model.generation_config.eos_token_id = [tiny_tokenizer.eos_token_id, end]
    for streaming in (False, True):
        ended = list(
            captures(speaking_lmm, samples(), answers="generated", tokens="all", max_new_tokens=10, streaming=streaming)
        )
        lengths = [0 if isinstance(c, Skip) else len(c.tokens) for c in ended]
        assert len(set(lengths)) > 1
        for before, after, length in zip(plain, ended, lengths, strict=True):
            if length:
                assert after.tokens == before.tokens[:length]
                torch.testing.assert_close(after.attention, before.attention[:length], atol=1e-5, rtol=0)


def test_phrases_keeps_the_tokens_of_the_roots_and_the_mean_over_all_tokens(tiny_lmm, photo):
    everything = capture(tiny_lmm, photo, PROMPT, ANSWER, tokens="all")
    roots = capture(tiny_lmm, photo, PROMPT, ANSWER)
    assert [p.root for p in roots.phrases] == ["dog", "chair", "umbrella"]
    assert roots.kept.tolist() == sorted({t for p in roots.phrases for t in p.tokens})
    assert 3 <= len(roots.kept) < len(everything.kept)
    torch.testing.assert_close(roots.attention, everything.attention[torch.from_numpy(roots.kept)])
    torch.testing.assert_close(roots.mean, everything.attention.mean(0))
    umbrella = roots.phrases[2]
    assert roots.answer[umbrella.start : umbrella.end] == "umbrella"
    pieces = "".join(roots.tokens[t] for t in umbrella.tokens)
    assert pieces.replace("▁", "") == "umbrella"


@pytest.mark.parametrize("prompt", ["USER: <image>\nWhat is it?", "<image>What is it?", "What is it? <image>"])
def test_a_whole_template_without_the_assistants_turn_is_warned_of(tiny_lmm, photo, prompt):
    with pytest.warns(UserWarning, match=r"does not end with the assistant's turn \('ASSISTANT:'\)"):
        capture(tiny_lmm, photo, prompt, ANSWER)


@pytest.mark.parametrize("prompt", ["What is it?", "USER: <image>\nhi ASSISTANT:", "USER: <image>\nhi ASSISTANT: \n"])
def test_a_prompt_that_leaves_the_word_to_the_assistant_is_not_warned_of(tiny_lmm, photo, prompt):
    assert capture(tiny_lmm, photo, prompt, ANSWER).phrases


def test_a_user_can_name_the_words(tiny_lmm, photo):
    got = capture(tiny_lmm, photo, PROMPT, ANSWER, phrases=["red chair"])
    assert [p.text for p in got.phrases] == ["red chair"]


def test_attention_is_the_share_of_the_row_that_goes_to_the_image(tiny_lmm, photo):
    got = capture(tiny_lmm, photo, PROMPT, ANSWER, tokens="all")
    mass = got.attention.sum((-1, -2))
    assert got.attention.shape == (len(got.tokens), 3, 4, 4, 4)
    assert got.attention.dtype == torch.float32 and got.attention.device.type == "cpu"
    assert mass.min() > 0 and mass.max() < 1


def test_bfloat16_weights_give_rows_of_their_own_precision(make_tiny_llava, photo):
    model, processor = make_tiny_llava()
    lmm = interp.wrap(model.to(torch.bfloat16), processor)
    got = capture(lmm, photo, PROMPT, ANSWER, tokens="all")
    want, _ = eager_columns(lmm, photo, PROMPT, ids_of(lmm, got), got.grid, "predicting")
    torch.testing.assert_close(got.attention, want.float(), atol=2e-2, rtol=0)


def test_one_token_answers_work(speaking_lmm, photo):
    for streaming in (False, True):
        got = capture(speaking_lmm, photo, PROMPT, tokens="all", max_new_tokens=1, streaming=streaming)
        assert got.attention.shape[0] == 1
    assert capture(speaking_lmm, photo, PROMPT, "cat", tokens="all").attention.isfinite().all()


def test_the_model_leaves_as_it_came(tiny_lmm, photo):
    model = tiny_lmm.model
    model.train()
    model.model.vision_tower.eval()
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():  # transformers puts hooks of its own on CLIP at its first use, and leaves them
        model.model.vision_tower(torch.zeros(1, 3, 32, 32), output_hidden_states=True)
    hooks = [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()]
    modes = [m.training for m in model.modules()]
    capture(tiny_lmm, photo, PROMPT, ANSWER)
    capture(tiny_lmm, photo, PROMPT, tokens="all", streaming=True, max_new_tokens=3)
    with pytest.raises(ValueError):
        capture(tiny_lmm, photo, PROMPT, "Yes.")
    assert [m.training for m in model.modules()] == modes
    assert model.config._attn_implementation == "sdpa"
    assert [(list(m._forward_hooks), list(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert all(torch.equal(v, weights[k]) for k, v in model.state_dict().items())
    assert torch.is_grad_enabled()


def test_a_sliding_window_that_forgot_the_prompt_is_replayed_right(make_tiny_llava, photo, tiny_tokenizer):
    from transformers import LlavaForConditionalGeneration, MistralConfig

    model, processor = make_tiny_llava()
    text = MistralConfig(
        vocab_size=len(tiny_tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        sliding_window=24,
        initializer_range=0.15,
        eos_token_id=tiny_tokenizer.eos_token_id,
        pad_token_id=tiny_tokenizer.pad_token_id,
    )
    config = copy.deepcopy(model.config)
    config.text_config = text
    windowed = LlavaForConditionalGeneration(config).eval()
    windowed.generation_config.suppress_tokens = [config.image_token_id]
    lmm = interp.wrap(windowed, processor)
    for streaming in (False, True):
        got = capture(lmm, photo, PROMPT, tokens="all", max_new_tokens=12, streaming=streaming)
        want, _ = eager_columns(lmm, photo, PROMPT, ids_of(lmm, got), got.grid, "predicting")
        assert (want == 0).any()  # the window did hide patches
        torch.testing.assert_close(got.attention, want, atol=1e-6, rtol=0)


def test_nan_weights_are_named_by_layer(tiny_lmm, photo):
    tiny_lmm.model.model.language_model.layers[1].self_attn.q_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(CaptureError, match=r"attention of layer 1 .* NaN"):
        capture(tiny_lmm, photo, PROMPT, ANSWER)


def test_an_answer_without_noun_phrase_says_what_to_do(tiny_lmm, photo):
    with pytest.raises(CaptureError, match=r"no noun phrase .*phrases=.*tokens='all'"):
        capture(tiny_lmm, photo, PROMPT, "Yes.")
    assert capture(tiny_lmm, photo, PROMPT, "Yes.", tokens="all").phrases == ()


def test_an_answer_that_ends_at_once_is_refused(tiny_lmm, photo):
    tiny_lmm.model.lm_head.weight.data.zero_()
    tiny_lmm.model.generation_config.eos_token_id = [0, tiny_lmm.tokenizer.eos_token_id]
    for streaming in (False, True):
        with pytest.raises(CaptureError, match="answer is empty"):
            capture(tiny_lmm, photo, PROMPT, tokens="all", streaming=streaming, max_new_tokens=4)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(answer="  "), "the answer is empty"),
        (dict(answer="a <image>"), "image place"),
        (dict(tokens="some"), "'phrases', 'all'"),
        (dict(query="next"), "'predicting', 'self'"),
        (dict(answer=ANSWER, streaming=True), "streaming"),
        (dict(max_new_tokens=0), "at least 1"),
        (dict(prompt=" "), "prompt is empty"),
        (dict(prompt="<image> <image> what?"), "2 image places"),
        (dict(answer=ANSWER, phrases=["elephant"]), "elephant"),
    ],
)
def test_bad_input_is_refused_with_a_reason(tiny_lmm, photo, options, message):
    with pytest.raises(Exception, match=message) as caught:
        # without the tests' own type checker, which a user does not have
        inspect.unwrap(capture)(tiny_lmm, **({"image": photo, "prompt": PROMPT} | options))
    assert isinstance(caught.value, ValueError)


def test_a_bad_sample_is_skipped_with_its_reason_and_spoils_no_other(tiny_lmm, monkeypatch):
    good = samples(6)
    zero = np.zeros((0, 5, 3), dtype=np.uint8)
    odd = [Sample("empty image", zero, PROMPT, ANSWER), Sample("no noun", good[0].image, PROMPT, "Yes.")]
    odd += [Sample("no answer", good[0].image, PROMPT, None), Sample("no prompt", good[0].image, "", ANSWER)]
    mixed = [good[0], odd[0], good[1], odd[1], odd[2], good[2], good[3], odd[3], good[4]]
    got = list(captures(tiny_lmm, mixed, batch=4))
    assert [c.sample_id for c in got] == [s.id for s in mixed]
    reasons = {c.sample_id: c.reason for c in got if isinstance(c, Skip)}
    assert reasons.keys() == {s.id for s in odd}
    assert "no noun phrase" in reasons["no noun"] and "no reference answer" in reasons["no answer"]
    assert "prompt is empty" in reasons["no prompt"]
    for captured in got:
        if not isinstance(captured, Skip):
            sample = next(s for s in good if s.id == captured.sample_id)
            alone = capture(tiny_lmm, sample.image, sample.prompt, sample.answer)
            torch.testing.assert_close(captured.attention, alone.attention, atol=1e-5, rtol=0)


def test_a_sample_that_breaks_the_whole_batch_is_found_and_the_others_kept(tiny_lmm, monkeypatch):
    import dataclasses
    import types

    family = types.SimpleNamespace(**{k: getattr(tiny_lmm.family, k) for k in ("decoder", "template", "grid")})

    def prepare(processor, images, texts):
        if any(image.shape[0] == 42 for image in images):
            raise ValueError("cannot read 42 rows")
        return tiny_lmm.family.prepare(processor, images, texts)

    family.prepare = prepare
    got = list(captures(dataclasses.replace(tiny_lmm, family=family), samples(5), batch=5))
    assert [isinstance(c, Skip) for c in got] == [False, False, True, False, False]
    assert "cannot read 42 rows" in got[2].reason


def test_a_batch_whose_rows_exceed_memory_is_cut_and_gives_the_same(tiny_lmm, monkeypatch):
    whole = list(captures(tiny_lmm, samples(5), batch=5))
    monkeypatch.setattr("interp.answer.batch.ROWS_AT_ONCE", 30_000)
    cut = list(captures(tiny_lmm, samples(5), batch=5))
    for a, b in zip(whole, cut, strict=True):
        torch.testing.assert_close(a.attention, b.attention, atol=1e-5, rtol=0)


def test_captures_reads_samples_lazily(tiny_lmm):
    read = []

    def source():
        for sample in samples(5):
            read.append(sample.id)
            yield sample

    run = captures(tiny_lmm, source(), batch=2)
    assert read == []
    next(run)
    assert read == ["0", "1"]


def test_captures_refuses_bad_options_at_once(tiny_lmm):
    with pytest.raises(ValueError, match="'reference' or 'generated'"):
        inspect.unwrap(captures)(tiny_lmm, [], answers="both")
    with pytest.raises(ValueError, match="at least 1"):
        captures(tiny_lmm, [], batch=0)


def test_given_answers_are_tokenised_as_they_follow_the_prompt(tiny_tokenizer):
    ids = answer_ids(tiny_tokenizer, "USER: <image>\nWhat? ASSISTANT:", " A dog.\n")
    assert tiny_tokenizer.convert_ids_to_tokens(ids)[:2] == ["▁A", "▁dog"]
    assert tiny_tokenizer.bos_token_id not in ids
    assert tiny_tokenizer.decode(ids) == "A dog."


def test_public_names_are_never_hidden_by_a_module_of_the_same_name():
    import types

    for name in interp.__all__:
        getattr(interp, name)
    hidden = [name for name in interp.__all__ if isinstance(getattr(interp, name), types.ModuleType)]
    assert hidden == []
