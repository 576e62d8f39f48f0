"""Checkpoints too small to be of use, in the layout of real ones: random weights, every byte.

They load in no time through the very code that loads real models.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2ForSequenceClassification,
    Qwen2Model,
)

STEP_TAG = "<extra_0>"
EOS = "<|im_end|>"
OTHER_END = "<|im_start|>"
"""Ends a reply as well, as the generation config alone says."""
MERGES = [("\u010a", "\u010a"), ("a", "b"), ("ab", "c"), ("\u0120", "a")]
CONTEXT = 512

_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] not in ['system', 'user', 'assistant'] %}"
    "{{ raise_exception('unknown role ' + m['role']) }}{% endif %}"
    "<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Bytes and a few longer tokens, two newlines among them, and a chat template."""
    alphabet = sorted(ByteLevel.alphabet())
    vocabulary = {symbol: index for index, symbol in enumerate(alphabet)}
    for left, right in MERGES:
        vocabulary[left + right] = len(vocabulary)
    built = Tokenizer(BPE(vocab=vocabulary, merges=MERGES))
    built.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=False)
    built.decoder = ByteLevelDecoder()
    built.add_special_tokens(
        [AddedToken(text, special=True) for text in ("<|im_start|>", EOS, STEP_TAG)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=built, eos_token=EOS, pad_token=EOS)
    fast.chat_template = _TEMPLATE
    return fast


def _config(words: PreTrainedTokenizerFast) -> Qwen2Config:
    return Qwen2Config(
        vocab_size=len(words),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        eos_token_id=words.eos_token_id,
        pad_token_id=words.pad_token_id,
        tie_word_embeddings=False,
    )


def generator(folder: Path) -> Path:
    """A causal model that writes any bytes, and seldom ends."""
    torch.manual_seed(0)
    words = tokenizer()
    words.save_pretrained(folder)
    model = Qwen2ForCausalLM(_config(words))
    # Wide logits: at temperature 1 a fresh model would write all bytes alike.
    model.lm_head.weight.data *= 8
    ends = words.convert_tokens_to_ids([EOS, OTHER_END])
    model.generation_config = GenerationConfig(eos_token_id=ends, pad_token_id=words.pad_token_id)
    model.save_pretrained(folder)
    return folder


def process_reward(folder: Path) -> Path:
    """The layout of Qwen2.5-Math-PRM: the model, and a head of two layers with two labels."""
    torch.manual_seed(1)
    words = tokenizer()
    words.save_pretrained(folder)
    config = _config(words)
    config.architectures = ["Qwen2ForProcessRewardModel"]
    config.num_labels = 2
    width = config.hidden_size
    head = torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
    )
    weights = {f"model.{name}": value for name, value in Qwen2Model(config).state_dict().items()}
    # A head of usual size on random features would call every step even; this one has opinions.
    weights |= {f"score.{name}": value * 8 for name, value in head.state_dict().items()}
    config.save_pretrained(folder)
    save_file(
        {name: value.contiguous() for name, value in weights.items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    return folder


def conversation(messages: tuple[tuple[str, str], ...]) -> list[int]:
    """The messages, as (role, content) pairs, in the tokens of all these models."""
    text = [{"role": role, "content": content} for role, content in messages]
    rendered = tokenizer().apply_chat_template(text, tokenize=False)
    return list(tokenizer().encode(rendered))


def process_scores(folder: Path, token_ids: list[int]) -> list[float]:
    """What the process reward model in `folder` says of each tagged step, by transformers alone."""
    tag_id = tokenizer().convert_tokens_to_ids(STEP_TAG)
    config = Qwen2Config.from_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    body = Qwen2Model(config)
    body.load_state_dict({name[6:]: v for name, v in weights.items() if name.startswith("model.")})
    width = config.hidden_size
    head = torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, 2)
    )
    head.load_state_dict({name[6:]: v for name, v in weights.items() if name.startswith("score.")})
    with torch.no_grad():
        hidden = body(torch.tensor([token_ids])).last_hidden_state[0]
        probabilities = head(hidden).softmax(-1)[:, 1]
    return [float(p) for p, token in zip(probabilities, token_ids, strict=True) if token == tag_id]


def outcome_reward(folder: Path) -> Path:
    """A sequence classifier with one label."""
    torch.manual_seed(2)
    words = tokenizer()
    words.save_pretrained(folder)
    config = _config(words)
    config.num_labels = 1
    Qwen2ForSequenceClassification(config).save_pretrained(folder)
    return folder
