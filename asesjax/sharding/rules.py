"""The mesh axis of each logical axis of the parameters, a table for each preset."""

from collections.abc import Mapping

Rules = Mapping[str, str | None]

# Fully sharded data parallelism cuts every kernel along the width; tensor parallelism cuts heads,
# MLP and vocabulary, so that a layer needs one sum across devices for each block.
_FSDP = {"embed": "fsdp"}
_TENSOR = {"heads": "tensor", "joined_kv": "tensor", "mlp": "tensor", "vocab": "tensor"}
PRESETS: dict[str, Rules] = {
    "dp": {},
    "fsdp": _FSDP,
    "tp": _TENSOR,
    "fsdp_tp": _FSDP | _TENSOR,
}


def rules(preset: str) -> Rules:
    """Return the table of a preset, such as {"embed": "fsdp"}; other axes are not sharded."""
    return PRESETS[preset]
