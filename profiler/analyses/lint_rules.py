"""The rules of lint: each a name, a severity, a remedy, and the query that decides it.

Contract: a query reads `chosen` (the saves in question, with `of_param`: whether the storage is a
parameter's) and gives rank, step, save_id and bytes, a save at most once. A rule claims only what
the rows prove; where contents were recorded (level `values`), they outweigh what layouts suggest.
Boundary: text and SQL. Grouping and wording of findings is `lint`.
"""

from __future__ import annotations

from dataclasses import dataclass

SEVERITIES = ("note", "warning", "error")
SMALL = 65_536  # bytes under which a kept view is not worth a word


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One thing that can be wrong."""

    name: str
    severity: str
    title: str
    remedy: str
    hits: str


def _saves(condition: str, *, cost: str = "v.logical_bytes", also: str = "") -> str:
    """The saves `v` of which `condition` is true."""
    return f"""
SELECT v.rank, v.step, v.save_id, {cost} AS bytes FROM chosen v {also}
WHERE {condition}
"""


def _served(condition: str) -> str:
    """The saves `v` that were served by the copy of `o`.

    Hooks that do not describe themselves have no finder: what they share is only their own claim.
    """
    return _saves(
        f"""v.action = 'alias' AND v.finder IS NULL
AND (v.content_hash IS NULL OR v.unpack_hash IS NULL OR v.content_hash <> v.unpack_hash)
AND {condition}""",
        also="JOIN saves o ON o.rank = v.rank AND o.save_id = v.alias_of",
    )


_SAME_LAYOUT = """
(v.shape = o.shape AND v.stride = o.stride AND v.storage_offset = o.storage_offset
    AND v.dtype = o.dtype)
"""
_KEPT_BY_ANOTHER = """
EXISTS (SELECT 1 FROM chosen k WHERE k.rank = v.rank AND k.step = v.step
    AND k.storage_id = v.storage_id AND k.action = 'kept')
"""

_WRITTEN = Rule(
    name="saved-mutated",
    severity="error",
    title="a saved tensor was written to in place before backward used it",
    remedy="use an out-of-place operation, or clone before writing: the gradient is wrong",
    hits=_saves("v.action = 'kept' AND v.unpack_version <> v.version"),
)

_CHANGED = Rule(
    name="changed-content",
    severity="error",
    title="backward got other values than were saved",
    remedy="the hooks give a buffer out again too early: wait for the copy, and for its reader",
    hits=_saves(
        "v.content_hash <> v.unpack_hash AND coalesce(v.unpack_version, v.version) = v.version"
    ),
)

_WRONG_COPY = Rule(
    name="wrong-copy",
    severity="error",
    title="a tensor was served by the host copy of another one (its address was used again)",
    remedy="key copies by live storage (a weak reference), never by an address",
    hits=_served("v.storage_id <> o.storage_id"),
)

_LAYOUT_LOST = Rule(
    name="layout-lost",
    severity="error",
    title="a view was served by a copy of another view, and came back in that one's layout",
    remedy="keep size, stride and offset per save and restore with as_strided",
    hits=_served(
        f"""v.storage_id = o.storage_id AND NOT {_SAME_LAYOUT}
AND (v.unpack_hash IS NOT NULL OR (v.unpack_stride = o.unpack_stride AND v.unpacked_count > 0))"""
    ),
)

_STALE = Rule(
    name="stale-copy",
    severity="error",
    title="a tensor that was written to was served by the copy from before",
    remedy="make the version counter part of the key of a copy",
    hits=_served("v.storage_id = o.storage_id AND v.version <> o.version"),
)

_OLD_VALUES = Rule(
    name="written-after-copy",
    severity="warning",
    title="a tensor was written to after it was copied to the host; PyTorch itself would refuse",
    remedy="use an out-of-place operation: without the offloader this program raises an error",
    hits=_saves("v.action <> 'kept' AND v.unpack_version <> v.version AND NOT v.of_param"),
)

_DUPLICATE = Rule(
    name="duplicate-host-copy",
    severity="warning",
    title="bytes that were on the host already were copied there again",
    remedy="copy a storage once: edkm.saved.offload, or key copies by storage and version",
    hits="""
WITH spans AS (
    SELECT *, host_start + item * (1
        + list_sum([(shape[i] - 1) * stride[i] for i in range(1, len(shape) + 1)])) AS host_stop
    FROM (
        SELECT *, logical_bytes // list_product(shape)::BIGINT AS item,
            storage_offset * (logical_bytes // list_product(shape)::BIGINT) AS host_start
        FROM chosen WHERE host_bytes > 0 AND NOT of_param AND logical_bytes > 0
            AND len(shape) > 0 AND len(stride) = len(shape)
    )
)
SELECT v.rank, v.step, v.save_id, v.host_bytes AS bytes FROM spans v
WHERE EXISTS (
    SELECT 1 FROM spans o WHERE o.rank = v.rank AND o.step = v.step
    AND o.storage_id = v.storage_id AND o.version = v.version AND o.save_id < v.save_id
    AND ((o.shape = v.shape AND o.stride = v.stride AND o.storage_offset = v.storage_offset)
        OR (o.logical_bytes >= o.host_stop - o.host_start
            AND o.host_start <= v.host_start AND v.host_stop <= o.host_stop))
)
""",
)

_PARAMETER = Rule(
    name="parameter-offloaded",
    severity="warning",
    title="a parameter was copied to the host; it stays in memory anyway",
    remedy="skip storages of parameters (offload(model), or skip_parameters=True)",
    hits=_saves("v.of_param AND v.host_bytes > 0", cost="v.host_bytes"),
)

_FREES_NOTHING = Rule(
    name="copy-frees-nothing",
    severity="warning",
    title="a copy on the host frees nothing: another save keeps the storage on the device",
    remedy="serve every save of a storage from the one host copy",
    hits=_saves(f"v.host_bytes > 0 AND NOT v.of_param AND {_KEPT_BY_ANOTHER}", cost="v.host_bytes"),
)

_OUTLIVED = Rule(
    name="copy-outlived",
    severity="note",
    title="a copy on the host freed nothing: the tensor was still alive when backward asked for it",
    remedy="drop the reference that the program holds, or do not offload this tensor",
    hits=_saves(
        f"""v.host_bytes > 0 AND NOT v.of_param AND t.category = 'saved'
AND v.unpack_ns IS NOT NULL AND (t.died_ns IS NULL OR t.died_ns > v.unpack_ns)
AND NOT {_KEPT_BY_ANOTHER}""",
        cost="v.host_bytes",
        also="JOIN storages t ON t.rank = v.rank AND t.storage_id = v.storage_id",
    ),
)

_NEVER_UNPACKED = Rule(
    name="never-unpacked",
    severity="warning",
    title="copied to the host and never asked for",
    remedy="do not offload what backward does not use; compute it under torch.no_grad()",
    hits=_saves(
        """v.host_bytes > 0 AND v.unpacked_count = 0
AND s.forward_end_ns IS NOT NULL AND s.end_ns IS NOT NULL
AND NOT EXISTS (SELECT 1 FROM saves u WHERE u.rank = v.rank AND u.alias_of = v.save_id
    AND u.unpacked_count > 0)""",
        cost="v.host_bytes",
        also="JOIN steps s ON s.rank = v.rank AND s.step = v.step",
    ),
)

_VIEW_KEEPS = Rule(
    name="view-keeps-storage",
    severity="warning",
    title="a small saved view keeps a large storage alive, of which nothing else is needed",
    remedy="clone the view before it is saved, or let the storage decide what is offloaded",
    hits=f"""
SELECT rank, step, min(save_id) AS save_id,
    any_value(storage_bytes) - sum(logical_bytes) AS bytes
FROM chosen WHERE action = 'kept' AND NOT of_param
GROUP BY rank, step, storage_id
HAVING any_value(storage_bytes) - sum(logical_bytes) >= {SMALL}
AND sum(logical_bytes) * 4 <= any_value(storage_bytes)
""",
)

_WIDE_TWIN = Rule(
    name="wide-twin",
    severity="note",
    title="saved in float32, though it was made from a 16-bit tensor and holds no more than that",
    remedy="save the 16-bit tensor and convert again in backward: half the bytes, same values",
    hits="""
SELECT v.rank, v.step, min(v.save_id) AS save_id, any_value(v.storage_bytes) // 2 AS bytes
FROM chosen v
JOIN nodes p ON p.rank = v.rank AND p.step = v.step AND p.seq = v.producer_seq
    AND p.name LIKE 'ToCopyBackward%'
JOIN edges e ON e.rank = p.rank AND e.step = p.step AND e.target = p.seq
JOIN nodes q ON q.rank = e.rank AND q.step = e.step AND q.seq = e.source
WHERE v.dtype = 'float32' AND q.dtype IN ('bfloat16', 'float16') AND NOT v.of_param
AND v.logical_bytes >= 1024 AND v.action IN ('kept', 'copied')
GROUP BY v.rank, v.step, v.storage_id
""",
)

_EQUAL_CONTENT = Rule(
    name="equal-content",
    severity="note",
    title="saved twice in two storages of equal content (sampled)",
    remedy="save one of them: a clone or .contiguous() made a second copy",
    hits="""
SELECT rank, step, save_id, bytes FROM (
    SELECT rank, step, min(save_id) AS save_id, any_value(storage_bytes) AS bytes,
        row_number() OVER (PARTITION BY rank, step, content_hash
            ORDER BY min(save_id)) AS place
    FROM chosen WHERE content_hash IS NOT NULL AND NOT of_param AND logical_bytes >= 1024
    AND action IN ('kept', 'copied')
    GROUP BY rank, step, content_hash, storage_id
) WHERE place > 1
""",
)

RULES: dict[str, Rule] = {
    rule.name: rule
    for rule in (
        _WRITTEN, _CHANGED, _WRONG_COPY, _LAYOUT_LOST, _STALE, _OLD_VALUES, _DUPLICATE,
        _PARAMETER, _FREES_NOTHING, _OUTLIVED, _NEVER_UNPACKED, _VIEW_KEEPS, _WIDE_TWIN,
        _EQUAL_CONTENT,
    )
}  # fmt: skip
