"""Text encoders: a BERT one text at a time gives what a padded batch gives; one that is missing is said to be."""

import numpy as np
import pytest
import torch

from interp.evaluation import encoders


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    """Folder of a random BERT of 2 layers with a vocabulary of letters."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    folder = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz"]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    (folder / "vocab.txt").write_text("\n".join(words))
    BertTokenizerFast(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    BertModel(config).save_pretrained(folder)
    return folder


def test_a_batch_gives_the_mean_over_each_texts_own_tokens(tiny_bert):
    from transformers import AutoModel, AutoTokenizer

    texts = ["a dog", "the very long brown dog on a chair", "x"]
    encode = encoders.bert(str(tiny_bert), device="cpu", batch=2)
    tokenizer, model = AutoTokenizer.from_pretrained(tiny_bert), AutoModel.from_pretrained(tiny_bert).eval()
    with torch.no_grad():
        alone = [model(**tokenizer(t, return_tensors="pt")).last_hidden_state[0].mean(0).numpy() for t in texts]
    np.testing.assert_allclose(encode(texts), alone, atol=1e-5)
    assert encode([]).shape == (0, 32)


def test_an_encoder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(encoders.EncoderMissing, match=r"no text encoder.*nosuch"):
        encoders.encoder(str(tmp_path / "nosuch"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("null")
    with pytest.raises(encoders.EncoderMissing, match=r"no text encoder.*broken"):
        encoders.encoder(str(tmp_path / "broken"))


def test_word_vectors_need_a_pipeline_that_has_them():
    with pytest.raises(encoders.EncoderMissing, match="has no word vectors; install en_core_web_md"):
        encoders.encoder("words")
