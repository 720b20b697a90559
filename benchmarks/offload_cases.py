"""The models whose steps benchmarks/offload.py measures: LLaMA blocks and stories3M.

Contract: the same weights and data every time, by a fixed seed; float32, bfloat16, or float32
weights under autocast to bfloat16.
Boundary: makes models and losses; who offloads and what is measured is the caller's business.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaModel

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
AUTOCAST = "autocast"
KINDS_OF_CASE = (
    "float32-eager",
    "float32-sdpa",
    "bfloat16-eager",
    "bfloat16-sdpa",
    "autocast-sdpa",
)


@dataclass
class Case:
    """A model and how to compute its loss."""

    name: str
    dtype: str  # of the weights, or "autocast"
    attention: str
    model: nn.Module
    loss: Callable[[], Tensor]

    @property
    def key(self) -> tuple[str, str, str]:
        return self.name, self.dtype, self.attention


@dataclass(frozen=True)
class Sizes:
    """Blocks, sequences, and tokens of a sequence."""

    layers: int
    batch: int
    length: int


def cases(
    hidden: Sequence[int], sizes: Sizes, stories: Path | None, kinds: Sequence[str]
) -> Iterator[Case]:
    """Every model, one at a time: two of them at once may not fit."""
    for width in hidden:
        for kind in kinds:
            dtype, attention = kind.split("-")
            yield llama_blocks(width, dtype, attention, sizes)
            gc.collect()
    for kind in kinds:
        dtype, attention = kind.split("-")
        if stories is not None and attention == "sdpa":
            yield stories_model(stories, dtype, sizes)


def llama_blocks(hidden: int, dtype: str, attention: str, sizes: Sizes) -> Case:
    """Hugging Face LLaMA blocks without an embedding, heads of 64, on random activations."""
    torch.manual_seed(0)
    make: Any = LlamaConfig  # its signature leaves the attention out
    config = make(
        hidden_size=hidden,
        intermediate_size=hidden * 11 // 4,
        num_hidden_layers=sizes.layers,
        num_attention_heads=hidden // 64,
        vocab_size=32,
        use_cache=False,
        attn_implementation=attention,
    )
    network: Any = LlamaModel(config)
    model = network.to(DEVICE, weight_type(dtype))
    data = torch.randn(sizes.batch, sizes.length, hidden, device=DEVICE, dtype=model.dtype)

    def loss() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == AUTOCAST):
            hidden_states: Tensor = model(inputs_embeds=data).last_hidden_state
            return hidden_states.float().square().mean()

    return Case(f"llama-{hidden}x{sizes.layers}", dtype, attention, model, loss)


def stories_model(folder: Path, dtype: str, sizes: Sizes) -> Case:
    """The checkpoint in `folder`, embedding, head and loss included, on random tokens."""
    torch.manual_seed(0)
    network: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=weight_type(dtype))
    model = network.to(DEVICE)
    model.train()
    shape = (sizes.batch, sizes.length)
    tokens = torch.randint(0, model.config.vocab_size, shape, device=DEVICE)

    def loss() -> Tensor:
        with torch.autocast(DEVICE, torch.bfloat16, enabled=dtype == AUTOCAST):
            found: Tensor = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        return found

    return Case("stories3M", dtype, str(model.config._attn_implementation), model, loss)


def weight_type(dtype: str) -> torch.dtype:
    """The type of the weights of a case."""
    return torch.float32 if dtype == AUTOCAST else getattr(torch, dtype)
