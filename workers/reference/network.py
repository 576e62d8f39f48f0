"""The two networks: their sizes, their attention on the CPU, and how they are saved.

Both are plain Qwen2 as Hugging Face and vLLM know it. The PRM is the reasoner's network grown
deeper, with the two-layer head of `Qwen2ForProcessRewardModel`.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedTokenizerFast, Qwen2Config, Qwen2Model

from workers.reference import STEP_TAG, tokens

WIDTH = 192
REASONER_LAYERS = 6
PRM_LAYERS = 10
LABELS = 2
_HIDDEN = -1e4


def _attend(
    _module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float = 1.0,
    **_unused: object,
) -> tuple[Tensor, None]:
    """Causal attention written out: on short rows on a CPU twice as fast as the fused kernel.

    Shapes [rows, heads, length, head width]; the mask, added to the scores, is [rows, 1, length,
    length]. Without one every token sees all before it: padding on the right needs no more.
    """
    if query.device.type != "cpu":
        out = nn.functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, is_causal=mask is None, scale=scaling
        )
        return out.transpose(1, 2).contiguous(), None
    scores = torch.matmul(query * scaling, key.transpose(2, 3))
    if mask is None:
        mask = torch.full(scores.shape[-2:], _HIDDEN).triu_(1)
    scores = scores + mask.to(scores.dtype)
    weights = torch.softmax(scores, -1, dtype=scores.dtype)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), None


AttentionInterface.register("longthink", _attend)


def configuration(layers: int, vocabulary: int, eos: int, pad: int) -> Qwen2Config:
    """A Qwen2 of the reference width with this many layers."""
    settings: dict[str, Any] = {
        "vocab_size": vocabulary,
        "hidden_size": WIDTH,
        "intermediate_size": 512,
        "num_hidden_layers": layers,
        "num_attention_heads": 6,
        "num_key_value_heads": 6,
        "max_position_embeddings": tokens.CONTEXT,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": True,
        "bos_token_id": None,
        "eos_token_id": eos,
        "pad_token_id": pad,
        "use_cache": False,
        "attn_implementation": "longthink",
    }
    return Qwen2Config(**settings)


class Reasoner(nn.Module):
    """A causal LM with tied embeddings. `forward` gives the last hidden states."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, layers: int = REASONER_LAYERS) -> None:
        super().__init__()
        self.config = configuration(
            layers, len(tokenizer), tokenizer.eos_token_id, tokenizer.pad_token_id
        )
        self.model = Qwen2Model(self.config)

    def forward(
        self, ids: Tensor, positions: Tensor | None = None, sees: Tensor | None = None
    ) -> Tensor:
        """Hidden states [rows, length, width] of right-padded ids [rows, length].

        `sees` [rows, length, length] says which token may see which; None: all before it.
        """
        mask = None if sees is None else torch.where(sees, 0.0, _HIDDEN)[:, None]
        out = self.model(
            input_ids=ids, position_ids=positions, attention_mask={"full_attention": mask}
        )
        hidden: Tensor = out.last_hidden_state
        return hidden

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits over the next token for hidden states [..., width]."""
        return nn.functional.linear(hidden, self.model.embed_tokens.weight)


class RewardModel(Reasoner):
    """A causal network that says at any token how likely all before it is right."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, layers: int = PRM_LAYERS) -> None:
        super().__init__(tokenizer, layers)
        self._tag = tokenizer.encode(STEP_TAG)[0]
        self._newline = tokenizer.encode("\n")[0]
        self.score = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, LABELS))

    def grow_from(self, reasoner: Reasoner) -> None:
        """Starts as the reasoner, with layers on top that pass everything on unchanged.

        So they find what the reasoner would say next, and learn to compare it with what is said.
        The step tag starts out as what it stands for, a newline.
        """
        self.model.embed_tokens.load_state_dict(reasoner.model.embed_tokens.state_dict())
        self.model.norm.load_state_dict(reasoner.model.norm.state_dict())
        words = self.model.embed_tokens.weight.data
        words[self._tag] = words[self._newline]
        layers: Any = self.model.layers
        for place, layer in enumerate(layers):
            if place < REASONER_LAYERS:
                layer.load_state_dict(reasoner.model.layers[place].state_dict())
            else:
                nn.init.zeros_(layer.self_attn.o_proj.weight)
                nn.init.zeros_(layer.mlp.down_proj.weight)

    def read(self, ids: Tensor, positions: Tensor, sees: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden states [rows, length, width] where the reasoner's layers end, and at the end."""
        between: list[Tensor] = []
        below = self.model.layers[REASONER_LAYERS - 1]
        hook = below.register_forward_hook(lambda _module, _inputs, out: between.append(out))
        try:
            last = self(ids, positions, sees)
        finally:
            hook.remove()
        return self.model.norm(between[0]), last


def save(network: Reasoner, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Writes a directory that vLLM and transformers load as it is; weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {
        name: value.detach().to("cpu", torch.bfloat16).contiguous()
        for name, value in network.state_dict().items()
    }
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    is_prm = isinstance(network, RewardModel)
    config = network.config.to_dict()
    config |= {
        "architectures": ["Qwen2ForProcessRewardModel" if is_prm else "Qwen2ForCausalLM"],
        "dtype": "bfloat16",
        "use_cache": True,
    }
    if is_prm:
        config |= {"num_labels": LABELS, "id2label": {"0": "wrong", "1": "right"}}
        config |= {"label2id": {"wrong": 0, "right": 1}}
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    generation = {"eos_token_id": config["eos_token_id"], "pad_token_id": config["pad_token_id"]}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save_pretrained(str(folder))


def load(network: Reasoner, folder: Path) -> None:
    """Fills the network with the weights of a saved directory."""
    network.load_state_dict(
        {name: value.float() for name, value in load_file(folder / "model.safetensors").items()}
    )
