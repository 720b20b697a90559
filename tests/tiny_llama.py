"""A LLaMA of random weights that trains, generates and is written to disk in under a second.

Boundary: needs transformers; a test file that can do without it skips before it imports this.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

SMALL = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def tiny_llama(seed: int = 0, **changes: Any) -> Any:
    """The model, float32; ``changes`` are settings of its configuration."""
    torch.manual_seed(seed)
    model: Any = LlamaForCausalLM
    return model(LlamaConfig(**{**SMALL, **changes}))
