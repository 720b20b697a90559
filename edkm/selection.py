"""Which weights of a model are clustered, at how many bits: names, patterns, tied weights.

Contract: a pure reading of the model; every refusal is a ``ValueError`` that names the layer,
the rule and the remedy. Layers that share a parameter come as one choice.
Boundary: decides; ``edkm.clustering`` acts.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from edkm.dkm.checks import DTYPES, check_range
from edkm.dkm.patterns import is_patterned

_AGAIN = (
    "edkm.clustering.Clustering.of(model) is the handle on it; for other settings call "
    "edkm.cluster on the model as it was loaded"
)
CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Choice:
    """One weight to cluster and every layer that uses it."""

    names: tuple[str, ...]
    modules: tuple[nn.Module, ...]
    weight: Tensor
    bits: int
    embedding: bool  # an embedding, or tied to one


def select(
    model: nn.Module,
    bits: int,
    embedding_bits: int,
    include: Sequence[str],
    exclude: Sequence[str],
    per_module: dict[str, int],
    *,
    conv: bool,
    clustered: Sequence[str] = (),
) -> list[Choice]:
    """The choices in the model's order, none of the layers that are ``clustered`` already.

    ``ValueError`` as ``edkm.cluster`` says.
    """
    named = [(name, module) for name, module in model.named_modules() if name]
    for setting, patterns in (("include", include), ("exclude", exclude), ("bits", per_module)):
        _check_patterns(setting, patterns, [name for name, _ in named])
    for pattern, wanted in per_module.items():
        check_range(f"bits of {pattern!r}", wanted, 0, 8, "0 leaves the layer out")
    for name in set(include).intersection(clustered):
        raise ValueError(f"include names {name!r}, which is clustered already; {_AGAIN}")
    groups: dict[int, list[tuple[str, nn.Module]]] = {}
    for name, module in named:
        if name not in clustered and _wanted(name, module, include, exclude, conv):
            groups.setdefault(id(_weight(name, module)), []).append((name, module))
    chosen = [_choice(group, bits, embedding_bits, per_module) for group in groups.values()]
    found = [choice for choice in chosen if choice.bits]
    if not found and clustered:
        raise ValueError(
            f"model {type(model).__name__} is clustered already ({len(clustered)} layers, the "
            f"first is {clustered[0]!r}) and has no other layer to cluster; {_AGAIN}"
        )
    if not found:
        raise ValueError(
            f"model {type(model).__name__} has no layer to cluster; supported are nn.Linear, "
            "nn.Embedding and, with conv=True, nn.Conv1d to 3d, below the model itself: check "
            "include, exclude and model.named_modules()"
        )
    return found


def check_form(choice: Choice, form: str, weighs: bool) -> None:
    """``ValueError`` unless ``form`` can train ``choice``; ``weighs``: with importance, scales or
    groups, which DKM's own forms do not have."""
    if weighs and form in ("dense", "fused"):
        raise ValueError(
            f"form is {form!r} with importance, row_scale or group_size, which layer "
            f"{choice.names[0]!r} trains by loops of its own; use form='auto', or none of the three"
        )
    if form == "fused" and not is_patterned(choice.weight.dtype):
        raise ValueError(
            f"layer {choice.names[0]!r} has a weight of dtype {choice.weight.dtype}, but form is "
            "'fused', which needs bfloat16 or float16, whose bits number a table; load the model "
            "in 16 bits, or use form='auto'"
        )


def _check_patterns(setting: str, given: Iterable[str], names: list[str]) -> None:
    if isinstance(given, str):
        raise ValueError(f"{setting} is the text {given!r}; give a list of names: [{given!r}]")
    patterns = list(given)
    for pattern in patterns:
        if not fnmatch.filter(names, pattern):
            raise ValueError(
                f"{setting} names {pattern!r}, which matches no module of the model; check the "
                "names with model.named_modules()"
            )


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _wanted(
    name: str, module: nn.Module, include: Sequence[str], exclude: Sequence[str], conv: bool
) -> bool:
    if _matches(name, exclude):
        return False
    if name in include:
        return True  # by its full name, whatever it is; _weight refuses what cannot be done
    known = type(module) in (nn.Linear, nn.Embedding) or (conv and type(module) in CONVS)
    return known and (not include or _matches(name, include))


def _weight(name: str, module: nn.Module) -> nn.Parameter:
    weight = getattr(module, "weight", None)
    if not isinstance(weight, nn.Parameter) or weight.ndim < 2:
        has = "no weight" if weight is None else f"a weight of shape {tuple(weight.shape)}"
        raise ValueError(
            f"layer {name!r} ({type(module).__name__}) has {has}; a layer can be clustered if its "
            "weight is a parameter of at least two dimensions: take it out of include"
        )
    if weight.dtype not in DTYPES:
        raise ValueError(
            f"layer {name!r} has a weight of dtype {weight.dtype}; clustering needs float64, "
            "float32, bfloat16 or float16: load the model unquantized, or exclude the layer"
        )
    return weight


def _choice(
    group: list[tuple[str, nn.Module]], bits: int, embedding_bits: int, per_module: dict[str, int]
) -> Choice:
    names = tuple(name for name, _ in group)
    modules = tuple(module for _, module in group)
    embedding = any(isinstance(module, nn.Embedding) for module in modules)
    asked = {
        wanted
        for name in names
        for pattern, wanted in per_module.items()
        if fnmatch.fnmatchcase(name, pattern) and pattern == _last_match(name, per_module)
    }
    if len(asked) > 1:
        raise ValueError(
            f"layers {', '.join(names)} share one weight but are asked for {sorted(asked)} bits; "
            "give them the same number, or untie them first"
        )
    own = asked.pop() if asked else (embedding_bits if embedding else bits)
    weight = _weight(names[0], modules[0])
    if weight.numel() < 1 << own:
        raise ValueError(
            f"layer {names[0]!r} has {weight.numel()} weights, fewer than the {1 << own} centroids "
            f"of {own} bits; use fewer bits for it or exclude it"
        )
    return Choice(names, modules, weight, own, embedding)


def _last_match(name: str, per_module: dict[str, int]) -> str:
    return [pattern for pattern in per_module if fnmatch.fnmatchcase(name, pattern)][-1]
