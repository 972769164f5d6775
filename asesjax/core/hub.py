"""Folders of the hub of Hugging Face."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from asesjax.core.errors import UserError
from asesjax.core.signals import at_once


def from_hub(name: str, patterns: Sequence[str], **where: Any) -> Path:
    """Fetch the files of ``owner/name`` that have such names into the hub's cache, and return their
    folder; ``where`` is of ``snapshot_download`` (repo_type, revision). Raises UserError.
    """
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder, and fetching it from the hub needs huggingface_hub: "
            "pip install huggingface_hub"
        ) from None
    try:
        with at_once():
            return Path(snapshot_download(name, allow_patterns=list(patterns), **where))
    except Exception as error:  # of the hub, of its HTTP client, of the network
        why = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise UserError(
            f"{name} is no folder here, and could not be fetched from the hub ({why}). Check the "
            "name and the network, or copy the folder to this machine and give its path"
        ) from None
