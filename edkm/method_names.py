"""How compared methods are called, and what colour they have in every picture.

Contract: a row is named ``[tuned+]METHOD[@EMBEDDING_BITS]``; ``split`` takes any such name apart,
``title`` says it to readers. One colour a method, told apart also without red and green (Okabe and
Ito); the forms of eDKM are of one colour.
Boundary: names only, cheap to import; which methods can be run is ``edkm.baselines``' to say.
"""

from __future__ import annotations

TUNED = "tuned+"
TITLES = {
    "dense": "dense, tuned", "rtn": "RTN", "smoothquant": "SmoothQuant (weights)", "gptq": "GPTQ",
    "awq": "AWQ", "llm-qat": "LLM-QAT (weights)", "kmeans": "k-means", "dkm": "DKM (coremltools)",
    "edkm": "eDKM", "edkm-allocated": "eDKM (allocated)",
    "edkm-chosen": "eDKM (allocated, chosen)",
}  # fmt: skip
ALLOCATED = ("edkm-allocated", "edkm-chosen")  # their bits are those whose bytes they may fill
COLOURS = {
    "rtn": "#999999", "smoothquant": "#b8a200", "gptq": "#0072b2", "awq": "#56b4e9",
    "llm-qat": "#009e73", "kmeans": "#e69f00", "dkm": "#cc79a7", "edkm": "#d55e00",
    "edkm-allocated": "#d55e00", "edkm-chosen": "#d55e00",
}  # fmt: skip


def split(name: str) -> tuple[bool, str, str]:
    """(of the tuned dense model, method, embedding bits as they are written or "") of a name."""
    inner = name.removeprefix(TUNED)
    method, _, bits = inner.partition("@")
    return inner != name, method, bits


def title(name: str) -> str:
    """A method's name as readers know it; one that is not known stays as it is."""
    tuned, method, bits = split(name)
    text = TITLES.get(method, method)
    text = f"tuned, then {text}" if tuned else text
    return f"{text}, embeddings {bits}" if bits else text


def bits_text(name: str, bits: int | float | None) -> str:
    """The bits of a row as a table says them: allocated bits by the bytes they take."""
    if bits is None:
        return ""
    return f"bytes of {bits:g}" if split(name)[1] in ALLOCATED else f"{bits:g}"
