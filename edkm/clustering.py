"""``edkm.cluster``: make a model's weights clustered while any loop trains it.

Contract: the model is changed in place; its parameters stay the same objects under the same
names. Linear and Embedding layers become ``edkm.layers``; other layers get a parametrization.
Tied weights stay tied and share one codebook. In ``train()`` weights are soft (or
straight-through), in ``eval()`` each is its nearest centroid.
Boundary: chooses and reports; how one weight is clustered is ``edkm.codebook``, when and how
softly is ``edkm.annealing``, files are ``edkm.export``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from edkm.codebook import Codebook, Kind, Mode
from edkm.dkm import DKMConfig, hard_indices
from edkm.dkm.checks import check_range
from edkm.layers import CodebookEmbedding, CodebookLinear
from edkm.palette import Palette, palettize
from edkm.selection import Choice, check_form, select


@dataclass(frozen=True)
class ClusteredWeight:
    """One weight of the model and the modules that share it."""

    modules: tuple[str, ...]  # names; more than one where the weight is tied
    module: nn.Module  # the first of them
    codebook: Codebook

    @property
    def name(self) -> str:
        """Name of the weight as in the plain model's ``state_dict``."""
        return f"{self.modules[0]}.weight" if self.modules[0] else "weight"

    @property
    def weight(self) -> Tensor:
        """The trained weight under the clustering (not the clustered one)."""
        if parametrize.is_parametrized(self.module, "weight"):
            original = self.module.parametrizations.weight.original  # type: ignore
            assert isinstance(original, Tensor)
            return original
        weight = self.module.weight
        assert isinstance(weight, Tensor)
        return weight

    def palette(self) -> Palette:
        """The weight as it is shipped."""
        codebook = self.codebook
        codebook.make_ready(self.weight)
        return palettize(self.weight, codebook.centroids, codebook.config.bits, codebook.scale)


class Clustering:
    """All clustered weights of a model: what schedules turn and what metrics read."""

    def __init__(self, model: nn.Module, weights: Sequence[ClusteredWeight]) -> None:
        self.model = model
        self.weights = {entry.name: entry for entry in weights}

    @classmethod
    def of(cls, model: nn.Module) -> Clustering:
        """The clustering of a model that ``edkm.cluster`` has changed. ``ValueError`` if none."""
        shared: dict[int, list[tuple[str, nn.Module, Codebook]]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            codebook = _codebook_of(module)
            if codebook is not None:
                shared.setdefault(id(codebook), []).append((name, module, codebook))
        if not shared:
            raise ValueError("the model has no clustered weight; call edkm.cluster(model) first")
        entries = [
            ClusteredWeight(tuple(name for name, _, _ in group), group[0][1], group[0][2])
            for group in shared.values()
        ]
        return cls(model, entries)

    def set_tau_factor(self, factor: float) -> None:
        """Multiply every temperature by ``factor`` (1: the automatic one) from now on."""
        for entry in self.weights.values():
            entry.codebook.tau_factor = factor

    def set_mode(self, mode: Mode, *, soft_only: bool = True) -> None:
        """Change how weights train; ``soft_only`` leaves those made straight-through alone."""
        for entry in self.weights.values():
            if not (soft_only and entry.codebook.made == "straight"):
                entry.codebook.mode = mode

    def new_step(self, index: int) -> None:
        """Say that optimizer step ``index`` begins (``edkm.schedule`` does)."""
        for entry in self.weights.values():
            entry.codebook.new_step(index)

    def start(self) -> None:
        """Fit every codebook to its weight now, anew."""
        for entry in self.weights.values():
            entry.codebook.start(entry.weight.detach())

    @contextlib.contextmanager
    def frozen(self, kind: Kind) -> Iterator[None]:
        """Inside, layers use fixed weights: ``"dense"``, ``"soft"`` or ``"hard"``. No gradient."""
        try:
            for entry in self.weights.values():
                entry.codebook.fixed = entry.codebook.as_used(entry.weight, kind)
            yield
        finally:
            for entry in self.weights.values():
                entry.codebook.fixed = None

    def metrics(self) -> dict[str, float]:
        """Numbers to watch: worst and mean soft-hard gap (relative L2), largest movement of a
        centroid in the last step over the spread of its codebook, and the smallest share of
        centroids that serve a weight."""
        gaps, moved, used = [], [], []
        for entry in self.weights.values():
            codebook, weight = entry.codebook, entry.weight.detach()
            if not bool(codebook.ready):
                continue
            gaps.append(codebook.gap(weight))
            spread = float(codebook.centroids.max() - codebook.centroids.min())
            moved.append(codebook.moved / spread if spread else 0.0)
            centroids = codebook.centroids.shape[:-1].numel()
            used.append(distinct_values(codebook, weight) / centroids)
        if not gaps:
            return {}
        return {
            "soft_hard_gap": sum(gaps) / len(gaps),
            "soft_hard_gap_max": max(gaps),
            "centroid_movement": max(moved),
            "centroids_used_min": min(used),
        }

    def palettes(self) -> dict[str, Palette]:
        """Every weight as it is shipped, by its name in the plain model's ``state_dict``."""
        return {name: entry.palette() for name, entry in self.weights.items()}


def distinct_values(codebook: Codebook, weight: Tensor) -> int:
    """How many centroids are nearest to at least one vector of ``weight``."""
    index = hard_indices(codebook.units(weight), codebook.centroids).view(codebook.groups, -1)
    index = index + codebook.config.clusters * torch.arange(
        codebook.groups, device=index.device
    ).unsqueeze(1)
    return int((torch.bincount(index.view(-1)) > 0).sum())


def cluster(
    model: nn.Module,
    bits: int = 3,
    *,
    embedding_bits: int = 8,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    per_module: Mapping[str, int] | None = None,
    conv: bool = False,
    embedding_mode: Mode = "straight",
    config: DKMConfig | None = None,
    warm_start: bool = True,
    importance: bool = False,
    row_scale: bool = False,
    group_size: int | None = None,
) -> Clustering:
    """Cluster the weights of ``model`` in place, so that any training loop tunes them clustered.

    Args:
        model: any module. Linear and Embedding layers are taken; Conv layers with ``conv=True``.
        bits: of every weight that is no embedding, 1 to 8.
        embedding_bits: of embeddings, and of a head tied to one.
        include: names or shell patterns (``"*.mlp.*"``); empty takes every supported layer. A
            full name may also be another layer with a float ``weight`` of two or more dimensions.
        exclude: names or patterns to leave out; wins over ``include``.
        per_module: bits by name or pattern; the last match wins; 0 leaves the layer out.
        embedding_mode: how weights of ``embedding_bits`` train: ``"straight"`` puts them on their
            nearest centroid with a straight-through gradient (at 8 bits soft clustering would
            cost 32 times the work of 3 bits and change nothing), or ``"soft"`` for DKM.
        config: further settings of DKM; its ``bits`` is ignored. Default: one update a step.
        warm_start: begin with converged k-means, not with k-means++ alone.
        importance: let k-means count each weight of a linear layer by the energy of the input it
            meets, once ``edkm.compensate`` has measured it.
        row_scale: divide each row of a linear layer by its root mean square before it is clustered;
            costs 2 bytes a row in the file.
        group_size: rows of a linear layer that share a codebook (1: one a channel); None: all of
            them. Costs a table of ``2**bits`` values a group in the file.

    Returns:
        A handle on the clustered weights: metrics, temperature, palettes.

    Raises:
        ValueError: bits out of range, a pattern that matches nothing, a layer that cannot be
            clustered or is already, tied layers asked for different bits, rows that
            ``group_size`` does not divide, a form that cannot do what is asked, or nothing to
            cluster.
    """
    check_range("bits", bits, 1, 8, "an index is stored in at most one byte")
    check_range("embedding_bits", embedding_bits, 1, 8, "an index is stored in at most one byte")
    if group_size is not None:
        check_range("group_size", group_size, 1, None, "a group has at least one row")
    held = [name for name, module in model.named_modules() if _codebook_of(module) is not None]
    bits_of = dict(per_module or {})
    choices = select(
        model, bits, embedding_bits, include, exclude, bits_of, conv=conv, clustered=held
    )
    base = config or DKMConfig(iterations=1)
    entries = []
    for choice in choices:
        mode: Mode = embedding_mode if choice.embedding else "soft"
        linear = base.dim == 1 and _is_linear(choice)
        codebook = Codebook(
            replace(base, bits=choice.bits),
            mode=mode,
            warm_start=warm_start,
            inputs=choice.weight.shape[1] if linear and importance else 0,
            rows=choice.weight.shape[0] if linear and row_scale else 0,
            groups=_groups(choice, group_size) if linear and group_size is not None else 1,
        )
        codebook.layer = choice.names[0]
        if mode == "soft":
            check_form(choice, base.form, codebook.weighs)
        codebook.to(choice.weight.device).train(model.training)
        entries.append(_install(model, choice, codebook))
    return Clustering(model, entries)


def _groups(choice: Choice, size: int) -> int:
    """Codebooks of a weight whose groups have ``size`` rows."""
    rows, width = choice.weight.shape
    if rows % size:
        raise ValueError(
            f"layer {choice.names[0]!r} has {rows} rows, which group_size={size} does not divide; "
            "give a divisor of the rows of every layer, or exclude this one"
        )
    if size * width < 1 << choice.bits:
        raise ValueError(
            f"layer {choice.names[0]!r} has {size * width} weights in a group of group_size={size} "
            f"rows, fewer than the {1 << choice.bits} centroids of {choice.bits} bits; give larger "
            "groups or fewer bits"
        )
    return rows // size


def _is_linear(choice: Choice) -> bool:
    return not choice.embedding and all(isinstance(m, nn.Linear) for m in choice.modules)


def _install(model: nn.Module, choice: Choice, codebook: Codebook) -> ClusteredWeight:
    """Replace or parametrize each layer of ``choice``; all get the one codebook."""
    first: nn.Module | None = None
    names = []
    for module in choice.modules:
        new: nn.Module
        if type(module) is nn.Linear:
            new = CodebookLinear.over(module, codebook)
        elif type(module) is nn.Embedding:
            new = CodebookEmbedding.over(module, codebook)
        else:
            parametrize.register_parametrization(module, "weight", codebook, unsafe=True)
            new = module
        # a module that is called in two places may have a name for each
        held = [n for n, m in model.named_modules(remove_duplicate=False) if m is module]
        if new is not module:
            _carry_hooks(module, new)
            for name in held:
                parent, _, leaf = name.rpartition(".")
                setattr(model.get_submodule(parent), leaf, new)
        names += held
        first = first or new
    assert first is not None
    return ClusteredWeight(tuple(names), first, codebook)


def _carry_hooks(old: nn.Module, new: nn.Module) -> None:
    for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
        getattr(new, kind).update(getattr(old, kind))


def _codebook_of(module: nn.Module) -> Codebook | None:
    if parametrize.is_parametrized(module, "weight"):
        for step in module.parametrizations.weight:  # type: ignore
            if isinstance(step, Codebook):
                return step
    held = getattr(module, "dkm", None)
    return held if isinstance(held, Codebook) else None
