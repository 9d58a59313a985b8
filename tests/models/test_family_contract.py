"""Every file in ``interp/models`` is a model family, tested here without a new test; and what they share."""

import inspect
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import tiny_models
import torch

import interp
from interp import plugins
from interp.contracts import ModelFamily
from interp.models import _hf
from interp.models._refused import REASONS, RefusedFamily
from interp.types import PatchGrid

PARTS = [name for name, part in vars(ModelFamily).items() if inspect.isfunction(part) and not name.startswith("_")]
PROMPT = "What is it?"


@pytest.mark.parametrize("name", plugins.names("models"))
def test_a_family_offers_what_the_stages_call(name):
    family = plugins.get("models", name)
    assert isinstance(getattr(family, "architecture", None), str) or callable(family.load)
    assert inspect.getdoc(family) and inspect.getdoc(family.grid)
    for part in PARTS:
        if part == "grid" or hasattr(family, part):
            offered = list(inspect.signature(inspect.unwrap(getattr(family, part))).parameters.values())
            wanted = list(inspect.signature(inspect.unwrap(getattr(ModelFamily, part))).parameters.values())[1:]
            if part == "grid" and offered[-1].name == "input_ids":
                wanted[-1] = wanted[-1].replace(name="input_ids")
            assert [(p.name, p.kind) for p in offered] == [(p.name, p.kind) for p in wanted], part


def test_the_contract_is_not_empty():
    assert {"load", "decoder", "template", "prepare", "grid"} <= set(PARTS)


def first_edition():
    """A family as files have been written so far: all five functions, the token ids alone for the grid, no options."""

    def grid(model, processor, image_size, input_ids):
        positions = _hf.image_positions(input_ids, model.config.image_token_id)
        return PatchGrid(positions.reshape(4, 4), (0.0, 0.0, float(image_size[1]), float(image_size[0])))

    return SimpleNamespace(
        __name__="mine",
        load=lambda checkpoint, **options: None,
        decoder=lambda model: model.model.language_model,
        template=lambda processor, prompt: f"USER: <image>\n{prompt} ASSISTANT:",
        prepare=lambda processor, images, texts: _hf.prepare(processor, images, texts),
        grid=grid,
    )


def test_a_file_of_the_first_edition_keeps_working(tiny_llava):
    model, processor = tiny_llava
    square = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    mine = interp.wrap(model, processor, family=first_edition())
    got = interp.capture(mine, square, PROMPT, "A dog.")
    want = interp.capture(interp.wrap(model, processor, family="llava"), square, PROMPT, "A dog.")
    assert torch.equal(got.attention, want.attention) and got.grid.box == want.grid.box
    with pytest.raises(ValueError, match="family mine takes no processor options"):
        replace(mine, options={"do_resize": True}).generate(square, PROMPT, 2)


def test_a_model_of_another_type_can_be_wrapped_as_a_family_that_fits(tiny_llava, photo):
    model, processor = tiny_llava
    model.config.model_type = "llava_of_mine"
    with pytest.raises(plugins.UnknownName, match="no model family for model_type 'llava_of_mine'"):
        interp.wrap(model, processor)
    assert interp.wrap(model, processor, family="llava").generate(photo, PROMPT, 2)


@pytest.mark.parametrize("kind", REASONS)
def test_families_without_a_place_for_their_tokens_are_refused_with_the_reason(kind, tiny_llava, tmp_path):
    model, processor = tiny_llava
    model.config.model_type = kind
    with pytest.raises(RefusedFamily, match=f"'{kind}' are refused: "):
        interp.wrap(model, processor)
    (tmp_path / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    with pytest.raises(RefusedFamily, match=f"'{kind}' are refused: "):
        interp.load(tmp_path)


def test_a_processor_option_that_there_is_not_is_named():
    model, processor = tiny_models.build("gemma3")
    with pytest.raises(ValueError, match=r"no option 'do_pan_and_skan'; it has: .*do_pan_and_scan"):
        interp.wrap(model, processor, processor_options={"do_pan_and_skan": True})


def test_options_reach_the_processor_and_its_grid_and_leave_the_users_own_as_it_was(photo):
    model, processor = tiny_models.build("qwen2_5_vl")
    plain, small = (
        interp.wrap(model, processor, processor_options=o) for o in ({}, {"max_pixels": 16 * 24, "min_pixels": 64})
    )
    shapes = [interp.capture(lmm, photo, PROMPT, "A dog.").grid.shape for lmm in (plain, small)]
    assert shapes == [(5, 6), (2, 2)]
    assert processor.image_processor.size["longest_edge"] == 64 * 64
    from interp.models._identity import setup

    assert setup(plain) != setup(small)  # or a stored result of the one would be taken for the other


def test_maps_are_of_the_view_that_is_asked_for(photo):
    model, processor = tiny_models.build("llava_next")
    main, base = (interp.wrap(model, processor, view=view) for view in (None, "base"))
    fine, coarse = (interp.capture(lmm, photo, PROMPT, "A dog.") for lmm in (main, base))
    assert (fine.grid.name, coarse.grid.name, coarse.grid.shape) == ("main", "base", (4, 4))
    both = [x.attention.sum((-1, -2)) + x.elsewhere for x in (fine, coarse)]
    torch.testing.assert_close(*both, atol=1e-6, rtol=0)  # the image's share is the same, whatever the map
    with pytest.raises(ValueError, match="no view 'thumbnail'; it has: main, base"):
        interp.capture(replace(main, view="thumbnail"), photo, PROMPT, "A dog.")
