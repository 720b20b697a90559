"""What the tracer costs a training step, and whether it changes anything.

Traced and untraced blocks of steps of one model take turns in one process, ABBA. A block ends
before the tracer's own thread writes to disk. Writing is timed apart: what was recorded in nine
tenths of the time between two writes of that level is written at once, five times, and the median
per step is added to every traced step, although in use it runs beside them. So every step is
charged its share of one write, and of no more. Rows: model, level, step_s and traced_step_s
(medians), overhead (median over pairs of blocks, by processor time, with the 95 % interval of that
median by bootstrap), wall_overhead (the same by the clock: only true on a quiet machine),
write_cpu_s (the write's share of a step), saves per step, peak resident size of a plain and a
traced process, the exact peak of tensors (bytes of live storages that operations made, counted by a
dispatch mode that knows nothing of the tracer), and whether the losses and all gradients are equal
bit by bit. Prints a table, or JSON with `--json`. `--quick` measures 4 pairs and no peaks.

    python benchmarks/tracer_overhead.py [--pairs 16] [--seconds 1.8] [--model PATH] [--json]

Models: a LLaMA of hidden 512 made here, and a checkpoint (--model).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from live_tensors import LiveTensors

from profiler import Tracer, open_run
from profiler.machine import collect_hardware, collect_versions, utc_now
from profiler.memory import PeakRss
from profiler.tracer import FLUSH_SECONDS

LEVELS = ("summary", "full")
WRITES = 5
MIB = 1 << 20
PEAKS = (
    "peak_rss_bytes",
    "traced_peak_rss_bytes",
    "peak_tensor_bytes",
    "traced_peak_tensor_bytes",
)
Step = Callable[[], torch.Tensor]


def main() -> None:
    options = parse_options()
    models = [] if options.only else ["llama-512"]
    models += [options.model] if options.model else []
    rows = [
        {
            **in_process(measure, model, level, options),
            **({} if options.quick else peaks(model, level)),
        }
        for model in models
        for level in LEVELS
    ]
    result = {
        "benchmark": "tracer_overhead",
        "created": utc_now(),
        "versions": collect_versions(),
        "hardware": collect_hardware(),
        "threads": 1,
        "pairs": options.pairs,
        "seconds_per_block": options.seconds,
        "rows": rows,
    }
    text = json.dumps(result, indent=1)
    if options.out:
        Path(options.out).write_text(text + "\n", encoding="utf-8")
    print(text if options.json else table(rows))


def parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=16, help="pairs of blocks")
    parser.add_argument("--seconds", type=float, default=1.8, help="length of a block")
    parser.add_argument("--model", help="folder of a checkpoint, measured beside the made one")
    parser.add_argument("--quick", action="store_true", help="4 pairs, no peaks: to develop by")
    parser.add_argument("--only", action="store_true", help="leave out the made model")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--out", help="also write JSON here")
    options = parser.parse_args()
    if options.quick:
        options.pairs = min(options.pairs, 4)
    if options.only and not options.model:
        parser.error("--only leaves nothing to measure: give --model PATH")
    return options


def in_process(work: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """Each measurement in a fresh process: no cache, heap or thread of the one before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, arguments)


def measure(model: str, level: Any, options: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(1)
    network, step = prepare(model)
    timed(step, 3)
    step_s = timed(step, 3).wall
    steps = max(2, int(options.seconds / step_s))
    share = 0.9 * FLUSH_SECONDS[level] / step_s
    plain: list[Times] = []
    traced: list[Times] = []
    with tempfile.TemporaryDirectory() as folder:
        for pair in range(options.pairs):
            if pair % 2:
                plain.append(timed(step, steps))
            path = f"{folder}/{pair}"
            with Tracer(path, model=network, level=level):
                traced.append(timed(step, steps))
            if not pair % 2:
                plain.append(timed(step, steps))
        write = writing(network, step, level, max(2, int(share)))
        traced = [Times(t.wall + write.wall, t.cpu + write.cpu) for t in traced]
        with open_run(path) as run:
            table = "saves" if level == "full" else "totals"
            count = "count(*)" if level == "full" else "sum(saves)"
            saves = run.sql(f"select {count} n from {table}")["n"].to_pylist()[0]
    by_cpu = [b.cpu / a.cpu - 1 for a, b in zip(plain, traced, strict=True)]
    by_clock = [b.wall / a.wall - 1 for a, b in zip(plain, traced, strict=True)]
    return {
        "model": Path(model).name,
        "level": level,
        "step_s": statistics.median(t.wall for t in plain),
        "traced_step_s": statistics.median(t.wall for t in traced),
        "step_cpu_s": statistics.median(t.cpu for t in plain),
        "overhead": statistics.median(by_cpu),
        "overhead_interval": interval(by_cpu),
        "wall_overhead": statistics.median(by_clock),
        "wall_overhead_interval": interval(by_clock),
        "write_cpu_s": write.cpu,
        "steps_per_block": steps,
        "saves_per_step": saves / steps,
        "equal": equal(network, step, level),
    }


class Times(NamedTuple):
    """Seconds per step, by the clock and of the processor."""

    wall: float
    cpu: float


def timed(step: Step, steps: int) -> Times:
    """Times per step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(steps):
        step()
    return Times((time.perf_counter() - wall) / steps, (time.process_time() - cpu) / steps)


def writing(network: torch.nn.Module, step: Step, level: Any, steps: int) -> Times:
    """Median times per step to write what so many steps recorded."""
    found = []
    for _ in range(WRITES):
        with tempfile.TemporaryDirectory() as folder:
            with Tracer(f"{folder}/run", model=network, level=level) as tracer:
                timed(step, steps)
                wall, cpu = time.perf_counter(), time.process_time()
                tracer.writer.flush()
                found.append((time.perf_counter() - wall, time.process_time() - cpu))
    return Times(*(statistics.median(times) / steps for times in zip(*found, strict=True)))


def interval(ratios: list[float], draws: int = 2000) -> tuple[float, float]:
    """The 95 % interval of the median, by bootstrap."""
    random = np.random.default_rng(0)
    medians = np.median(random.choice(ratios, (draws, len(ratios))), axis=1)
    low, high = np.quantile(medians, (0.025, 0.975))
    return float(low), float(high)


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
    plain, traced = (in_process(peak, model, which) for which in (None, level))
    return {
        "peak_rss_bytes": plain["rss"],
        "traced_peak_rss_bytes": traced["rss"],
        "peak_tensor_bytes": plain["tensors"],
        "traced_peak_tensor_bytes": traced["tensors"],
    }


def peak(model: str, level: Any) -> dict[str, int]:
    """Growth of the resident size over ten steps after two, and of tensors in one step more."""
    torch.set_num_threads(1)
    network, step = prepare(model)
    if level is None:
        return {"rss": grown(step), "tensors": tensor_peak(step)}
    with tempfile.TemporaryDirectory() as folder:
        with Tracer(f"{folder}/run", model=network, level=level):
            return {"rss": grown(step), "tensors": tensor_peak(step)}


def tensor_peak(step: Step) -> int:
    live = LiveTensors()
    with live:
        step()
    return live.peak


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

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
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
        network: Any = LlamaForCausalLM(config)  # type: ignore[no-untyped-call]
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
        f"{'model':12}{'level':9}{'step ms':>9}{'traced':>9}{'overhead (95 %)':>26}{'by clock':>10}"
        f"{'saves':>7}{'RSS MiB':>10}{'traced':>8}{'tensors':>9}{'traced':>8}  equal"
    ]
    for row in rows:
        low, high = row["overhead_interval"]
        sizes = [row.get(name, math.nan) / MIB for name in PEAKS]
        span = f"{row['overhead']:.1%} ({low:.1%} to {high:.1%})"
        lines.append(
            f"{row['model']:12}{row['level']:9}{1e3 * row['step_s']:9.1f}"
            f"{1e3 * row['traced_step_s']:9.1f}{span:>26}{row['wall_overhead']:10.1%}"
            f"{row['saves_per_step']:7.0f}{sizes[0]:10.1f}{sizes[1]:8.1f}{sizes[2]:9.1f}"
            f"{sizes[3]:8.1f}  {row['equal']}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
