"""Tokens a second of a 3-bit model on the CPU: weights packed, against unpacked ones.

Both are `edkm.load` of one folder, and generate greedily from the same eight tokens, in turn, in
one process and one thread. CPU time, which bears a busy machine. Bytes are those that the weights
take in memory.

    python benchmarks/decode.py [--model FOLDER] [--tokens 32] [--rounds 3] [--json] [--out FILE]

Without `--model`, a LLaMA of random weights of `--hidden` and `--layers`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import edkm
from edkm.export import save
from profiler.machine import collect_hardware, collect_versions, utc_now

KINDS = ("dense", "packed")


def main() -> None:
    options = parse_options()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = make(options)
        parameters = sum(p.numel() for p in model.parameters())
        edkm.cluster(model, options.bits)
        save(model, folder)
        loaded = {kind: edkm.load(folder, dense=kind == "dense") for kind in KINDS}
    for model in loaded.values():
        generate(model, 2)  # compiled loops
    seconds: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind, model in loaded.items():
            begun = time.process_time()
            generate(model, options.tokens)
            seconds[kind].append(time.process_time() - begun)
    rates = {kind: options.tokens / statistics.median(seconds[kind]) for kind in KINDS}
    result = {
        "benchmark": "decode",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": {k: v for k, v in vars(options).items() if k not in ("json", "out")},
        "parameters": parameters,
        "cpu_s": seconds,
        "tokens_per_cpu_s": rates,
        "weight_bytes": {kind: held(model) for kind, model in loaded.items()},
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
        return
    for kind in KINDS:
        size = held(loaded[kind]) / 2**20
        print(f"{kind:7} {rates[kind]:7.1f} tokens a CPU second, {size:7.1f} MiB of weights")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a LLaMA to cluster")
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=32, help="to generate")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="also write JSON here")
    return parser.parse_args()


def make(options: argparse.Namespace) -> Any:
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

    if options.model:
        return AutoModelForCausalLM.from_pretrained(options.model)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=4096,
        hidden_size=options.hidden,
        intermediate_size=options.hidden * 11 // 4,
        num_hidden_layers=options.layers,
        num_attention_heads=options.hidden // 64,
        num_key_value_heads=options.hidden // 128,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config)  # type: ignore[no-untyped-call]


def generate(model: Any, tokens: int) -> None:
    ids = torch.arange(1, 9).unsqueeze(0)
    model.generate(
        ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False, pad_token_id=2
    )


def held(model: torch.nn.Module) -> int:
    """Bytes of distinct storages of parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


if __name__ == "__main__":
    main()
