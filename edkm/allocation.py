"""How many bits each weight gets: mixed precision by sensitivity, under a budget of bytes.

Contract: ``allocate`` leaves the model as it was. What rounding costs is measured one weight at a
time: the divergence of the next-token distributions with that weight alone on its codebook, of
linear layers after ``edkm.compensate``'s rounding. Other widths cost in proportion to the error of
their codebook, each column by the mean square of its input; where bits would go by that, the cost
is measured again. Bits go where they save most a byte, until the bytes of the uniform choice are
spent. Deterministic.
Source: marginal analysis (Fox, Management Science 13, 1966).
Boundary: costs of different weights are added up; what tuning mends is not foreseen.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edkm.codebook import nearest
from edkm.compensate import compensated, input_gram
from edkm.dkm.checks import check_range
from edkm.kmeans import best_kmeans
from edkm.palette import packed_bytes
from edkm.selection import Choice, select

WIDTHS = (1, 8)  # fewest and most bits that a weight may get
_ROUNDS = 30  # of k-means
_ENTRY = 24  # bytes of a weight's bits in the header, besides its name


@dataclass(frozen=True)
class Share:
    """What one weight was found to cost, and what it gets."""

    modules: tuple[str, ...]  # that use the weight
    weights: int
    uniform_bits: int
    bits: int
    cost: float  # measured: nats a token with this weight alone at ``uniform_bits``
    predicted: float  # the same at ``bits``


@dataclass(frozen=True)
class Allocation:
    """Bits for each weight, in the model's order."""

    shares: tuple[Share, ...]
    bytes: int  # of indices and tables
    uniform_bytes: int  # the same for the uniform choice, from which the budget follows

    @property
    def per_module(self) -> dict[str, int]:
        """What ``edkm.cluster(model, per_module=...)`` takes."""
        return {name: share.bits for share in self.shares for name in share.modules}

    def as_json(self) -> dict[str, Any]:
        """Plain values; ``from_json`` reads them back."""
        return {**asdict(self), "shares": [asdict(share) for share in self.shares]}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Allocation:
        """The allocation that ``as_json`` gave, read from a file perhaps."""
        shares = [Share(**{**s, "modules": tuple(s["modules"])}) for s in values["shares"]]
        return cls(tuple(shares), values["bytes"], values["uniform_bytes"])


@torch.no_grad()
def allocate(
    model: nn.Module,
    batches: Sequence[dict[str, Any]],
    bits: int = 3,
    *,
    embedding_bits: int = 8,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
) -> Allocation:
    """Bits for every weight that ``edkm.cluster`` would take, embeddings included.

    The file is at most as large as that of ``bits`` and ``embedding_bits`` for all. ``batches``:
    keyword inputs of a causal language model's forward, without labels. Cost: a forward of
    ``batches`` for each weight. ``ValueError`` without batches, and as ``edkm.cluster`` says.
    """
    if not batches:
        raise ValueError("there are no batches to measure on; give a few of the training data")
    check_range("bits", bits, 1, 8, "an index is stored in at most one byte")
    check_range("embedding_bits", embedding_bits, 1, 8, "an index is stored in at most one byte")
    choices = select(model, bits, embedding_bits, include, exclude, {}, conv=False)
    was_training = model.training
    model.eval()
    try:
        measure = _Measure(model, batches)
        fits = [measure.fit(choice) for choice in choices]
        sizes = [fit.bytes for fit in fits]
        uniform_bytes = sum(fit.bytes[fit.uniform] for fit in fits)
        # a file whose weights differ in bits lists them by name
        budget = uniform_bytes - sum(len(fit.choice.names[0]) + _ENTRY for fit in fits)
        given = spend([fit.curve() for fit in fits], sizes, budget)
        for fit, width in zip(fits, given, strict=True):
            measure.cost(fit, width)  # trusted where it was measured: near the result
        given = spend([fit.curve() for fit in fits], sizes, budget)
    finally:
        model.train(was_training)
    shares = tuple(
        Share(
            fit.choice.names,
            fit.choice.weight.numel(),
            fit.choice.bits,
            WIDTHS[0] + at,
            fit.measured[fit.uniform],
            fit.curve()[at],
        )
        for fit, at in zip(fits, given, strict=True)
    )
    spent = sum(size[at] for size, at in zip(sizes, given, strict=True))
    return Allocation(shares, spent, uniform_bytes)


def spend(
    curves: Sequence[Sequence[float]], sizes: Sequence[Sequence[int]], budget: int
) -> list[int]:
    """The width (an index into its curve) of each item: greedily the most saved a byte.

    ``curves``: cost of each item at each width, falling. ``sizes``: bytes, rising. All start at the
    smallest; a step may go up several widths, so that a curve need not be convex.
    """
    at = [0] * len(curves)
    left = budget - sum(size[0] for size in sizes)
    while True:
        best: tuple[float, int, int] | None = None
        for item, (curve, size) in enumerate(zip(curves, sizes, strict=True)):
            for to in range(at[item] + 1, len(curve)):
                more = size[to] - size[at[item]]
                gain = (curve[at[item]] - curve[to]) / more
                if more <= left and gain > 0 and (best is None or gain > best[0]):
                    best = gain, item, to
        if best is None:
            return at
        _, item, to = best
        left -= sizes[item][to] - sizes[item][at[item]]
        at[item] = to


class _Fit:
    """The codebooks of one weight at every width: tables, weighed errors, bytes, costs."""

    def __init__(self, choice: Choice, energy: Float[Tensor, " columns"] | None) -> None:
        self.choice = choice
        self.uniform = choice.bits - WIDTHS[0]  # as an index into the lists
        self.measured: dict[int, float] = {}
        weight = choice.weight.detach()
        mass = None if energy is None else (energy / energy.mean()).to(weight).unsqueeze(0)
        self.tables: list[Tensor] = []
        self.errors: list[float] = []
        self.bytes: list[int] = []
        for bits in range(WIDTHS[0], WIDTHS[1] + 1):
            if 1 << bits > weight.numel():
                break
            table = best_kmeans(weight, _even(weight, 1 << bits), _ROUNDS, mass)
            error = (nearest(weight, table, None) - weight).double().square()
            self.tables.append(table)
            self.errors.append(float((error if mass is None else error * mass).sum()))
            size = packed_bytes(weight.numel(), bits) + table.numel() * weight.element_size()
            self.bytes.append(size)

    def curve(self) -> list[float]:
        """Cost at every width: measured at the nearest one, in proportion to the errors."""
        found = []
        for at, error in enumerate(self.errors):
            by = min(self.measured, key=lambda known: (abs(known - at), known))
            scale = error / self.errors[by] if self.errors[by] else 1.0
            found.append(self.measured[by] * scale)
        return found


def _even(weight: Tensor, count: int) -> Tensor:
    low, high = float(weight.min()), float(weight.max())
    return torch.linspace(low, high, count, device=weight.device).unsqueeze(1)


class _Measure:
    """What rounding one weight does to the model's distributions."""

    def __init__(self, model: nn.Module, batches: Sequence[dict[str, Any]]) -> None:
        self.model, self.batches = model, batches
        self.dense = [self._log_probabilities(batch) for batch in batches]

    def fit(self, choice: Choice) -> _Fit:
        """The codebooks of ``choice``, its cost measured at the uniform width."""
        found = None if choice.embedding else self._gram(choice)
        fit = _Fit(choice, None if found is None else found.diagonal())
        self.cost(fit, fit.uniform, found)
        return fit

    def cost(self, fit: _Fit, width: int, gram: Tensor | None = None) -> None:
        """KL(model || model with that weight alone rounded), nats a token, where not yet known."""
        if width in fit.measured:
            return
        weight, table = fit.choice.weight.detach(), fit.tables[width]
        moved = weight
        if not fit.choice.embedding:
            gram = self._gram(fit.choice) if gram is None else gram
            moved = weight if gram is None else compensated(weight, gram, table)
        total, count = 0.0, 0
        with _values(weight, nearest(moved, table, None)):
            for batch, dense in zip(self.batches, self.dense, strict=True):
                other = self._log_probabilities(batch)
                total += float((dense.exp() * (dense - other)).sum(dtype=torch.float64))
                count += dense[..., 0].numel()
        fit.measured[width] = max(total, 0.0) / count

    def _log_probabilities(self, batch: dict[str, Any]) -> Tensor:
        found: Tensor = self.model(**batch).logits.float().log_softmax(-1)
        return found

    def _gram(self, choice: Choice) -> Tensor | None:
        """X^T X of the linear layer that uses the weight; None: there is none."""
        linear = [module for module in choice.modules if isinstance(module, nn.Linear)]
        return input_gram(self.model, linear[0], self.batches) if linear else None


@contextlib.contextmanager
def _values(weight: Tensor, values: Tensor) -> Iterator[None]:
    """Inside, ``weight`` has other values."""
    kept = weight.clone()
    try:
        weight.copy_(values)
        yield
    finally:
        weight.copy_(kept)
