"""A clustered fine-tuning step against a plain one: CPU time and peak memory.

A LLaMA of random weights is tuned for a few steps as `python -m edkm.train` tunes it (AdamW, one
k-means update a step, embeddings at 8 bits straight-through), plain and clustered in turn, each in
a process of its own so that peak memory is its own. CPU time, not wall time: it bears a busy
machine. The first step, which fits the codebooks, is left out of the times and in the peak.

    python benchmarks/train_step.py [--hidden 1024] [--layers 4] [--rounds 3] [--json] [--out FILE]
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

import edkm
from profiler.machine import collect_hardware, collect_versions, utc_now

KINDS = ("plain", "clustered")


def main() -> None:
    options = parse_options()
    if options.kind:
        print(json.dumps(measure(options)))
        return
    found: dict[str, list[dict[str, Any]]] = {kind: [] for kind in KINDS}
    for _ in range(options.rounds):
        for kind in KINDS:
            found[kind].append(in_a_process(kind))
    step = {kind: [s for run in found[kind] for s in run["step_cpu_s"]] for kind in KINDS}
    peak = {kind: [run["peak_bytes"] for run in found[kind]] for kind in KINDS}
    result = {
        "benchmark": "train_step",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "arguments": {k: v for k, v in vars(options).items() if k not in ("json", "out", "kind")},
        "parameters": found["plain"][0]["parameters"],
        "step_cpu_s": step,
        "peak_bytes": peak,
        "time_ratio": statistics.median(step["clustered"]) / statistics.median(step["plain"]),
        "peak_ratio": statistics.median(peak["clustered"]) / statistics.median(peak["plain"]),
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    if options.json:
        print(text)
        return
    for kind in KINDS:
        print(
            f"{kind:10} {statistics.median(step[kind]):7.3f} CPU s a step, "
            f"peak {statistics.median(peak[kind]) / 2**20:,.0f} MiB"
        )
    print(f"clustered over plain: time {result['time_ratio']:.3f}, peak {result['peak_ratio']:.3f}")


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--bits", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--batch", type=int, default=8, help="sequences")
    parser.add_argument("--tokens", type=int, default=256, help="of a sequence")
    parser.add_argument("--steps", type=int, default=2, help="timed steps a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each kind")
    parser.add_argument("--kind", choices=KINDS, help=argparse.SUPPRESS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--out", help="also write JSON here")
    return parser.parse_args()


def in_a_process(kind: str) -> dict[str, Any]:
    command = [sys.executable, __file__, *sys.argv[1:], "--kind", kind]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(options: argparse.Namespace) -> dict[str, Any]:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
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
    model = LlamaForCausalLM(config).to(getattr(torch, options.dtype))
    plan = None
    if options.kind == "clustered":
        plan = edkm.schedule(edkm.cluster(model, options.bits), options.steps + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
    ids = torch.randint(0, 4096, (options.batch, options.tokens))
    model.train()
    times = []
    for step in range(options.steps + 1):
        begun = time.process_time()
        if plan is not None:
            plan.step(step)
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.process_time() - begun)
    return {
        "parameters": sum(p.numel() for p in model.parameters()),
        "step_cpu_s": times[1:],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


if __name__ == "__main__":
    main()
