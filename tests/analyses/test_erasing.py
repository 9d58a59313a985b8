"""What mini-difflmm is given of CLIP: nouns without colours, and the same weights with and without hooks."""

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.linear_model import LogisticRegression

from interp.models.difflmm import DiffLMMForConditionalGeneration
from interp.plugins import data_folder, shipped
from training.mini_difflmm import erasing

NOUNS, COLOURS, WIDTH = 6, 4, 40


@pytest.fixture
def patches():
    """(patches, each one's noun, each one's colour): both lie in them, crossed and noisy; a third have no noun."""
    draw = torch.Generator().manual_seed(0)
    nouns, colours = (torch.randint(n, (6000,), generator=draw) for n in (NOUNS + 2, COLOURS))
    nouns = nouns.clamp(max=NOUNS)
    of_nouns, of_colours, mix = (torch.randn(n, WIDTH, generator=draw) for n in (NOUNS + 1, COLOURS, WIDTH))
    x = (of_nouns[nouns] + of_colours[colours] + 0.7 * torch.randn(6000, WIDTH, generator=draw)) @ mix
    return x, nouns, torch.where(nouns < NOUNS, colours, -1)


def told(x, y):
    """How often a linear probe tells y on the half that it has not seen."""
    half = len(x) // 2
    return LogisticRegression(max_iter=3000).fit(x[:half], y[:half]).score(x[half:], y[half:])


def mapped(x, found):
    matrix, offset = found
    return (x @ matrix.T + offset).numpy()


def test_colours_are_gone_for_a_linear_probe_and_nouns_are_not(patches):
    x, nouns, colours = patches
    seen, tinted = mapped(x, erasing.nouns_alone(x, nouns, colours)), (colours >= 0).numpy()
    assert told(x[tinted].numpy(), colours[tinted].numpy()) > 0.9, "they were there"
    assert told(seen[tinted], colours[tinted].numpy()) < 1 / COLOURS + 0.05
    assert told(seen, nouns.numpy()) > told(x.numpy(), nouns.numpy()) - 0.03 > 0.8


def test_what_is_erased_is_the_least_that_must_be(patches):
    """LEACE's map is a projection whose rank falls by the classes less one."""
    x, _, colours = patches
    x, y = x[colours >= 0].double(), colours[colours >= 0]
    matrix, offset = erasing.without(x, y)
    torch.testing.assert_close(matrix @ matrix, matrix)
    assert torch.linalg.matrix_rank(matrix) == WIDTH - (COLOURS - 1)
    torch.testing.assert_close((x @ matrix.T + offset).mean(0), x.mean(0))


def test_the_directions_that_are_kept_are_those_of_scikit_learns_discriminants(patches):
    x, nouns, _ = patches
    seen = mapped(x.double(), erasing.only(x.double(), nouns, 3))
    theirs = LinearDiscriminantAnalysis(solver="eigen", n_components=3).fit_transform(x.numpy(), nouns.numpy())
    joined = np.concatenate([seen - seen.mean(0), theirs - theirs.mean(0)], 1)
    assert np.linalg.matrix_rank(seen - seen.mean(0), tol=1e-6 * np.abs(seen).max() * len(seen)) == 3
    size = np.linalg.svd(joined / joined.std(0), compute_uv=False)
    assert size[3] < 0.02 * size[0], "both span the same three directions"


@pytest.mark.skipif("mini-difflmm" not in shipped(), reason="mini-difflmm does not ship here")
def test_weights_that_ship_see_without_the_maps_what_they_were_trained_to_see_through_them(tmp_path):
    model = DiffLMMForConditionalGeneration.from_pretrained(data_folder() / "mini-difflmm" / "base").float()
    projector, draw = model.model.multi_modal_projector, torch.Generator().manual_seed(1)
    maps = {n: (torch.randn(192, 192, generator=draw) / 14, torch.randn(192)) for n in ("captioner", "linear")}
    erasing.save_eraser(maps, tmp_path)
    clip, feature = torch.randn(2, 144, 192, generator=draw), torch.randn(2, 96, 12, 12, generator=draw)
    with torch.no_grad():
        plain = projector.caption(clip)
        handles = erasing.erase(projector, erasing.load_eraser(tmp_path))
        through = projector.caption(clip), projector(feature, clip)
        for handle in handles:
            handle.remove()
        assert torch.equal(projector.caption(clip), plain)
        assert (plain - through[0]).abs().max() > 0.01
        given = {f"model.{name}": value for name, value in projector.state_dict().items()}
        done = {name.removeprefix("model."): value for name, value in erasing.folded(given, maps).items()}
        projector.load_state_dict(done)
        for got, want in zip((projector.caption(clip), projector(feature, clip)), through, strict=True):
            torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
