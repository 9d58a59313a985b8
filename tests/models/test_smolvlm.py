"""SmolVLM's own processor, which needs what only videos need, against the one that it is loaded with."""

import numpy as np
import pytest
import tiny_models
import torch
from transformers import ProcessorMixin
from transformers.models.smolvlm import processing_smolvlm

from interp.models import _hf, smolvlm


@pytest.mark.parametrize("shape", [(30, 92), (97, 28), (310, 260)])
@pytest.mark.parametrize("split", [True, False])
def test_an_image_is_read_as_smolvlms_own_processor_reads_it(shape, split, tmp_path, monkeypatch):
    model, processor = tiny_models.build("smolvlm")
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    for file in tmp_path.glob("*.json"):  # as the released checkpoints have it
        said = file.read_text().replace("Idefics3Processor", "SmolVLMProcessor")
        file.write_text(said.replace("SmolVLMImageProcessorPil", "SmolVLMImageProcessor"))
    loaded = smolvlm.load(str(tmp_path))[1]
    monkeypatch.setattr(processing_smolvlm, "num2words", str)
    monkeypatch.setattr(ProcessorMixin, "check_argument_for_proper_class", lambda *args: None)  # of the video part
    own = processing_smolvlm.SmolVLMProcessor(processor.image_processor, processor.tokenizer, None, image_seq_len=4)
    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made, wanted = (
        _hf.prepare(x, [image], ["USER: <image>\nWhat is it? ASSISTANT:"], do_image_splitting=split)
        for x in (loaded, own)
    )
    assert made.keys() == wanted.keys()
    assert all(torch.equal(made[name], wanted[name]) for name in made)
