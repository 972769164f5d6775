"""Examples kept on disk as flat arrays, so that a second start encodes nothing.

A folder holds ``inputs.npy`` and ``targets.npy`` (the ids of all examples one behind the other),
``weights.npy`` (one for each target), ``loss_from.npy`` (likewise, of the examples that have them),
``lengths.npy`` (of both sides of each example) and ``cache.json`` (a key, names and kinds of the
examples, how many each role has). It is whole or
absent, and used only where its key is the one asked for: a hash of everything that the examples
were made of. The arrays are memory-mapped, so processes of one machine share their pages.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import asesjax
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.types import Example

_FORMAT = 3
# Code that examples come from: another version of it may make others of the same records.
_CODE = ("data", "methods", "segment")


def cache_key(files: Iterable[str | os.PathLike], fields: dict[str, Any]) -> str:
    """Return a hash of what examples are made of.

    Args:
      files: records, segments, vocabulary: every file that is read; their order matters. A file
        that does not exist is another state than an empty one.
      fields: names and JSON values of everything else, configuration fields above all.

    Returns:
      Hexadecimal digits, other ones where a file, a field or the code that makes examples differs.
    """
    total = hashlib.sha256(json.dumps([_FORMAT, fields], sort_keys=True, default=list).encode())
    package = Path(asesjax.__file__).parent
    code = [path for folder in _CODE for path in sorted((package / folder).rglob("*.py"))]
    for path in [*map(Path, files), *code]:
        # Of one length each, so that nothing can move from a file into the next.
        digest = hashlib.sha256(path.read_bytes()).digest() if path.is_file() else bytes(32)
        total.update(digest)
    return total.hexdigest()


def cached_examples(
    folder: str | os.PathLike,
    key: str,
    build: Callable[[], dict[str, list[Example]]],
    write: bool = True,
) -> dict[str, list[Example]]:
    """Return the examples of every role from disk, or build and keep them.

    Args:
      folder: of this cache alone; what another key left there is replaced.
      key: from ``cache_key``.
      build: makes the examples of each role.
      write: keep what was built; one process of several does.

    Returns:
      What ``build`` returns, to the last bit; arrays from disk are read-only.
    """
    found = load_examples(folder, key)
    if found is None:
        found = build()
        if write:
            save_examples(folder, key, found)
    return found


def save_examples(folder: str | os.PathLike, key: str, examples: dict[str, list[Example]]) -> None:
    """Write examples through a neighbouring folder, so that a killed process leaves no half one."""
    folder = Path(folder)
    rows = [example for role in examples.values() for example in role]
    no_loss_from = np.zeros(0, np.float32)
    flat = {
        "inputs": _joined([row.inputs for row in rows], np.int32),
        "targets": _joined([row.targets for row in rows], np.int32),
        "weights": _joined([row.weights for row in rows], np.float32),
        "loss_from": _joined(
            [no_loss_from if row.loss_from is None else row.loss_from for row in rows], np.float32
        ),
        "lengths": np.asarray(
            [(len(row.inputs), len(row.targets)) for row in rows], np.int64
        ).reshape(-1, 2),
    }
    facts = {
        "key": key,
        "roles": {name: len(role) for name, role in examples.items()},
        "names": [row.id for row in rows],
        "kinds": [row.kind for row in rows],
        "with_loss_from": [i for i, row in enumerate(rows) if row.loss_from is not None],
        "prefix_in_encoder": [i for i, row in enumerate(rows) if row.prefix_in_encoder],
    }
    part = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        for name, values in flat.items():
            with open(part / f"{name}.npy", "wb") as file:
                np.save(file, values)
                _flush(file)
        with open(part / "cache.json", "w", encoding="utf-8") as file:
            json.dump(facts, file, ensure_ascii=False)
            _flush(file)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def load_examples(folder: str | os.PathLike, key: str) -> dict[str, list[Example]] | None:
    """Read the examples of every role, memory-mapped and read-only.

    Returns:
      None where there are none, they have another key, or a file is damaged.
    """
    folder = Path(folder)
    if not (folder / "cache.json").is_file():
        return None
    try:
        facts = read_json(folder / "cache.json")
        if facts["key"] != key:
            return None
        names = ("inputs", "targets", "weights", "loss_from", "lengths")
        inputs, targets, weights, loss_from, lengths = (
            _mapped(folder / f"{name}.npy") for name in names
        )
    except (OSError, EOFError, ValueError, KeyError, UserError):
        return None
    names, kinds, roles = facts["names"], facts["kinds"], facts["roles"]
    ends = lengths.cumsum(0)
    n_tokens = ends[-1].tolist() if len(ends) else [0, 0]
    if [len(inputs), len(targets)] != n_tokens or len(weights) != n_tokens[1]:
        return None
    if not len(names) == len(kinds) == len(lengths) == sum(roles.values()):
        return None
    own_loss_from, end = {}, 0
    for i in facts["with_loss_from"]:
        own_loss_from[i] = loss_from[end : end + lengths[i, 1]]
        end += lengths[i, 1]
    if end != len(loss_from):
        return None
    prefix_in_encoder = set(facts["prefix_in_encoder"])
    rows = [
        Example(
            name, inputs[s:s_end], targets[t:t_end], weights[t:t_end], kind,
            own_loss_from.get(i), i in prefix_in_encoder,
        )
        for i, (name, kind, (s, t), (s_end, t_end)) in enumerate(
            zip(names, kinds, (ends - lengths).tolist(), ends.tolist(), strict=True)
        )
    ]  # fmt: skip
    places = np.cumsum([0, *roles.values()]).tolist()
    return {
        name: rows[start:end] for name, start, end in zip(roles, places, places[1:], strict=False)
    }


def _joined(parts, dtype):
    return np.concatenate([np.zeros(0, dtype), *parts]).astype(dtype, copy=False)


def _mapped(path):
    # A plain array over the map: slices of numpy's memmap class are five times as slow to make.
    return np.asarray(np.load(path, mmap_mode="r"))


def _flush(file):
    file.flush()
    os.fsync(file.fileno())
