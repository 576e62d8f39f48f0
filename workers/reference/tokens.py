"""The tokenizer of both reference models, and how lessons become token ids.

Qwen2's byte-level BPE with a small vocabulary: every digit is a token, every newline is one,
most words of the synthetic queries are one. Nothing is merged with a newline, so a step
boundary is a token boundary, text cut there and tokenised again gives the same ids, and any
byte can be written.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Tokenizer

from workers.reference import STEP_TAG
from workers.reference.lessons import Lesson

PAD = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
VOCABULARY = 1024
CONTEXT = 2048

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\\n' + message['content'] + '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)


def build(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """A tokenizer whose words are those of the texts, none of them reaching over a line."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = Qwen2Tokenizer().backend_tokenizer.pre_tokenizer
    special = [PAD, START, END, STEP_TAG]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator((line for text in texts for line in text.split("\n")), trainer)
    learnt = json.loads(bpe.to_str())["model"]
    return Qwen2Tokenizer(
        vocab=learnt["vocab"],
        merges=cast(Any, [tuple(pair) for pair in learnt["merges"]]),  # as it is, if not as typed
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        additional_special_tokens=[STEP_TAG],
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def prompt_text(messages: Sequence[dict[str, str]]) -> str:
    """What the chat template makes of a conversation that waits for its reply."""
    turns = "".join(f"{START}{m['role']}\n{m['content']}{END}\n" for m in messages)
    return f"{turns}{START}assistant\n"


def encode_lesson(tokenizer: PreTrainedTokenizerFast, lesson: Lesson) -> tuple[list[int], int]:
    """The lesson's ids, and how many of them come before what is to be learnt."""
    encode = tokenizer.backend_tokenizer.encode
    before = encode(prompt_text(lesson.messages) + lesson.given).ids
    return before + encode(lesson.reply + END).ids, len(before)


def load(folder: Path) -> PreTrainedTokenizerFast:
    """The tokenizer saved in a model's directory."""
    loaded: PreTrainedTokenizerFast = Qwen2Tokenizer.from_pretrained(folder)
    return loaded
