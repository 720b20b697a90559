"""The program behind the bundled runs: a few steps of a small LLaMA with AdamW, on random tokens.

Contract: one command line per bundled run (see `record`); under torchrun every rank trains a
replica with DistributedDataParallel over gloo.
Boundary: knows nothing of the tracer; it is traced as anybody's script is.
"""

from __future__ import annotations

import argparse
import contextlib
import os
from typing import Any

import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from edkm.saved import offload

WIDTH, LAYERS, VOCABULARY, TOKENS, BATCH = 128, 4, 512, 128, 4


def main() -> None:
    """Trains as the options say."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--checkpoint", action="store_true", help="compute layers again")
    parser.add_argument("--offload", action="store_true", help="keep saved tensors on the host")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = make_model(options.checkpoint)
    ranks = int(os.environ.get("WORLD_SIZE", "1"))
    if ranks > 1:
        torch.distributed.init_process_group("gloo")
        model = nn.parallel.DistributedDataParallel(model)
    train(model, options.steps, options.offload)
    if ranks > 1:
        torch.distributed.destroy_process_group()


def make_model(checkpoint: bool) -> Any:
    """A LLaMA of a million parameters, fresh from the seed."""
    config = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=344, num_hidden_layers=LAYERS, num_attention_heads=4,
        num_key_value_heads=4, vocab_size=VOCABULARY, max_position_embeddings=TOKENS,
        use_cache=False,
    )  # fmt: skip
    made: Any = LlamaForCausalLM  # carries no annotations
    model = made(config).train()
    if checkpoint:
        model.gradient_checkpointing_enable()
    return model


def train(model: Any, steps: int, offloaded: bool) -> None:
    """Steps of AdamW; of the first rank the loss is printed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(steps):
        tokens = torch.randint(VOCABULARY, (BATCH, TOKENS))
        with offload(model) if offloaded else contextlib.nullcontext():
            loss = model(input_ids=tokens, labels=tokens).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if os.environ.get("RANK", "0") == "0":
            print(f"step {step}: loss {loss.item():.3f}")


if __name__ == "__main__":
    main()
