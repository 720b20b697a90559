"""What the tracer costs a training step, and whether it changes anything.

Traced and untraced steps of one model take turns in one process, in blocks; within a traced block
writing to disk is forced and counted as part of its steps, although in use it runs beside them.
Rows: model, level, step_s and traced_step_s (medians), overhead (median over pairs of blocks),
saves per step, peak resident size of a plain and a traced process, and whether the losses and all
gradients are equal bit by bit. Prints a table, or JSON with `--json`.

    python benchmarks/tracer_overhead.py [--blocks 12] [--steps 5] [--model PATH] [--json] [--out F]

Models: a LLaMA of hidden 512 made here, and a checkpoint (--model).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from profiler import Tracer, open_run
from profiler.machine import collect_hardware, collect_versions, utc_now
from profiler.memory import PeakRss

LEVELS = ("summary", "full")
MIB = 1 << 20
Step = Callable[[], torch.Tensor]


def main() -> None:
    options = parse_options()
    models = ["llama-512"] + ([options.model] if options.model else [])
    rows = [
        {**in_process(measure, model, level, options), **peaks(model, level)}
        for model in models
        for level in LEVELS
    ]
    result = {
        "benchmark": "tracer_overhead",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "threads": 1,
        "blocks": options.blocks,
        "steps_per_block": options.steps,
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text if options.json else table(rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=12, help="pairs of blocks")
    parser.add_argument("--steps", type=int, default=5, help="steps in a block")
    parser.add_argument("--model", help="folder of a checkpoint, measured beside the made one")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", help="also write JSON here")
    return parser.parse_args()


def in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Each measurement in a fresh process: no cache, heap or thread of the one before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure(model: str, level: Any, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    network, step = prepare(model)
    for _ in range(3):
        step()
    plain: list[float] = []
    traced: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for block in range(options.blocks):
            plain.append(timed(step, options.steps))
            path = f"{folder}/{block}"
            with Tracer(path, model=network, level=level) as tracer:
                traced.append(timed(step, options.steps, tracer))
        with open_run(path) as run:
            table = "saves" if level == "full" else "totals"
            count = "count(*)" if level == "full" else "sum(saves)"
            saves = run.sql(f"select {count} n from {table}")["n"].to_pylist()[0]
    ratios = [b / a for a, b in zip(plain, traced, strict=True)]
    return {
        "model": Path(model).name,
        "level": level,
        "step_s": statistics.median(plain),
        "traced_step_s": statistics.median(traced),
        "overhead": statistics.median(ratios) - 1,
        "overhead_quartiles": [q - 1 for q in statistics.quantiles(ratios, n=4)],
        "saves_per_step": saves / options.steps,
        "equal": equal(network, step, level),
    }


def timed(step: Step, steps: int, tracer: Tracer | None = None) -> float:
    """Seconds per step; with a tracer, writing what it recorded included."""
    start = time.perf_counter()
    for _ in range(steps):
        step()
    if tracer is not None:
        tracer.writer.flush()
    return (time.perf_counter() - start) / steps


def equal(network: torch.nn.Module, step: Step, level: Any) -> bool:
    """Whether loss and gradients of one step are the same bits with the tracer on and off."""
    state = {name: value.clone() for name, value in network.state_dict().items()}
    found = []
    for traced in (False, True):
        network.load_state_dict(state)
        with tempfile.TemporaryDirectory() as folder:
            if traced:
                with Tracer(f"{folder}/run", model=network, level=level):
                    loss = step()
            else:
                loss = step()
        gradients = [p.grad.clone() for p in network.parameters() if p.grad is not None]
        found.append([loss.detach().clone(), *gradients])
    return all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def peaks(model: str, level: Any) -> dict[str, Any]:
    return {
        "peak_rss_bytes": in_process(peak, model, None)["bytes"],
        "traced_peak_rss_bytes": in_process(peak, model, level)["bytes"],
    }


def peak(model: str, level: Any) -> dict[str, Any]:
    """Growth of the resident size over ten steps after two, in a process of its own."""
    torch.set_num_threads(1)
    network, step = prepare(model)
    with tempfile.TemporaryDirectory() as folder:
        if level is None:
            return {"bytes": grown(step)}
        with Tracer(f"{folder}/run", model=network, level=level):
            return {"bytes": grown(step)}


def grown(step: Step) -> int:
    for _ in range(2):
        step()
    with PeakRss() as seen:
        for _ in range(10):
            step()
    return seen.growth_bytes


def prepare(model: str) -> tuple[torch.nn.Module, Step]:
    """A LLaMA and one training step of it, AdamW included."""
    from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.manual_seed(0)
    if model == "llama-512":
        config = LlamaConfig(
            vocab_size=4096,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=4,
            num_attention_heads=8,
            use_cache=False,
        )
        network = LlamaForCausalLM(config)
    else:
        network = AutoModelForCausalLM.from_pretrained(model, local_files_only=True)
    network.train()
    tokens = torch.randint(network.config.vocab_size, (4, 128))
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-5)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss: torch.Tensor = network(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        optimizer.step()
        return loss

    return network, step


def table(rows: list[dict[str, Any]]) -> str:
    lines = [
        f"{'model':12}{'level':9}{'step ms':>9}{'traced':>9}{'overhead':>10}{'saves':>7}"
        f"{'peak MiB':>10}{'traced':>8}  equal"
    ]
    lines += [
        f"{row['model']:12}{row['level']:9}{1e3 * row['step_s']:9.1f}"
        f"{1e3 * row['traced_step_s']:9.1f}{row['overhead']:10.1%}{row['saves_per_step']:7.0f}"
        f"{row['peak_rss_bytes'] / MIB:10.1f}{row['traced_peak_rss_bytes'] / MIB:8.1f}"
        f"  {row['equal']}"
        for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
