"""What the tiny models are made of: tokenizers, sizes of language models and vision towers."""

import string

import torch

SENTENCES = (
    "USER: Describe the image in detail. ASSISTANT: A brown dog sits on a red chair beside a small table.",
    "USER: \nThe picture shows two cups and an old umbrella in front of a blue house. What is on the left? A cat.",
)
SPECIAL = ["<unk>", "<s>", "</s>", "<pad>"]


def tokenizer(*special, **named):
    """Llama-like BPE tokenizer of about 200 tokens; long nouns take several. ``named``: special tokens by name."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    made = Tokenizer(models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.decoder = decoders.Metaspace(prepend_scheme="first")
    every = list(dict.fromkeys([*SPECIAL, *named.values(), *special]))
    alphabet = list(string.ascii_letters + string.punctuation)
    trainer = trainers.BpeTrainer(
        vocab_size=215 + len(every), special_tokens=every, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(SENTENCES * 3, trainer)
    made.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        extra_special_tokens=named,
    )


def text(tokens, **more):
    """Settings of a language model of 3 layers x 4 heads, 2 key-value heads; far from uniform attention."""
    return {
        "vocab_size": len(tokens),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "initializer_range": 0.15,
        "pad_token_id": tokens.pad_token_id,
        "bos_token_id": tokens.bos_token_id,
        "eos_token_id": tokens.eos_token_id,
        **more,
    }


def finished(model_class, config, tokens, seed, spread=0.0):
    """The model of random weights, which never says a token that is not text. ``spread``: at least this deviation for
    each matrix of the vision part."""
    torch.manual_seed(seed)
    model = model_class(config).eval()
    if spread:
        for name, weight in model.named_parameters():
            if "language_model" not in name and weight.ndim > 1:
                torch.nn.init.normal_(weight, std=spread)
    mute = [i for i in range(len(tokens)) if i in tokens.all_special_ids or tokens.convert_ids_to_tokens(i)[:1] == "<"]
    mute += [i for i in range(len(tokens)) if not tokens.decode([i]).strip()]
    model.generation_config.suppress_tokens = sorted({*mute} - {tokens.eos_token_id})
    model.generation_config.eos_token_id = tokens.eos_token_id
    model.generation_config.pad_token_id = tokens.pad_token_id
    return model


def chat(image):
    """A chat template in the shape of LLaVA-1.5's, with this for an image."""
    return (
        "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
        "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '" + image + "\n' }}"
        "{% else %}{{ part['text'] + ' ' }}{% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
    )
