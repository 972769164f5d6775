"""Which mesh axis each logical axis of the parameters lies along, one table a preset."""

from collections.abc import Mapping

from asesjax.core.errors import unknown

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
    """Return the table of a preset: logical axis to mesh axis; names not in it are not sharded.

    Raises:
      UserError: an unknown preset.

    Example:
      >>> rules("fsdp")
      {'embed': 'fsdp'}
    """
    if preset not in PRESETS:
        raise unknown("mesh.preset", preset, PRESETS)
    return PRESETS[preset]
