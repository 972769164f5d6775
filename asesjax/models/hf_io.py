"""Read and write the weights of Hugging Face checkpoints, one tensor at a time.

A checkpoint that does not fit is refused with a report of everything wrong in it, before a number
is read. Files are float32, bfloat16 or float16; parameters here are float32.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np

from asesjax.core.errors import UserError
from asesjax.core.files import write_json
from asesjax.core.types import Params
from asesjax.models import hf_names, t5
from asesjax.models.hf_config import IDS, NO_DECODER, config_from_hf, config_to_hf, read_config
from asesjax.models.hf_files import DTYPES, SAFE, TensorFiles, n_bytes, write_safetensors
from asesjax.models.layers import path_name
from asesjax.models.t5_config import T5Config


def load_params(
    folder: str | Path,
    shardings: Any = None,
    vocab_rows: int | None = None,
    allow_pickle: bool = False,
) -> tuple[T5Config, Params]:
    """Read a Hugging Face T5 or mT5; return its shape and parameters, float32.

    ``shardings`` is a tree of the resized parameters, and each device gets only its part. With
    ``vocab_rows``, missing rows are the mean of the others and surplus rows are cut off. An output
    that transformers 5 ties but does not scale becomes its own copy of the embedding: the same
    logits. Raises UserError where tensors are missing, too many, of another shape or contradict the
    config.
    """
    fields = read_config(folder)
    config = config_from_hf(fields, f"{folder}/config.json")
    files = TensorFiles(folder, allow_pickle)
    source_of = _match(files, config, fields.get("tie_word_embeddings"))
    if vocab_rows is not None:
        config = dataclasses.replace(config, vocab_size=vocab_rows)
    tensors, places = hf_names.tensors(config), _flat(shardings)

    def read(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
        name = path_name(path)
        value = np.empty(shape.shape, np.float32)
        theirs = tensors[name].turn(value)  # the same memory
        files.fill(source_of[name], theirs)
        n_rows = files.shapes[source_of[name]][0]
        if n_rows < len(theirs):
            theirs[n_rows:] = theirs[:n_rows].mean(axis=0, dtype=np.float64)
        if (place := places.get(name)) is None:
            return jax.device_put(value)
        return jax.make_array_from_callback(value.shape, place, lambda index: value[index])

    return config, jax.tree_util.tree_map_with_path(read, _shapes(config))


def save_hf(
    folder: str | Path,
    config: T5Config,
    params: Params,
    model_type: str = "t5",
    dtype: str = "float32",
    max_shard_bytes: int = 5 * 10**9,
    vocab_rows: int | None = None,
) -> None:
    """Write parameters as transformers saves them: safetensors, config and generation config.

    ``vocab_rows`` is as in ``load_params``. With ``dtype`` float16 the MLPs' ``wo`` stays float32,
    as transformers keeps it; numbers beyond float16 are a UserError.
    """
    if vocab_rows is not None:
        config = dataclasses.replace(config, vocab_size=vocab_rows)
    folder, leaves = Path(folder), _flat(params)
    layout = {
        name: ("float32" if dtype == "float16" and name.endswith(".wo.weight") else dtype, shape)
        for name, shape in _file_shapes(config).items()
    }
    tensors = {tensor.name: (path, tensor) for path, tensor in hf_names.tensors(config).items()}

    def value(name: str) -> np.ndarray:
        path, tensor = tensors[name]
        array = tensor.turn(_on_host(leaves[path]))
        if name in (hf_names.TABLE, hf_names.HEAD):
            array = _resize_rows(array, config.vocab_size)
        with np.errstate(over="ignore"):
            cast = np.ascontiguousarray(array, DTYPES[layout[name][0]])
        if dtype == "float16" and np.isinf(cast).any() and not np.isinf(array).any():
            raise UserError(f"{name} holds numbers beyond float16; use --dtype bfloat16 or float32")
        return cast

    shards = _shards(layout, max_shard_bytes)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        place = f"-{number:05}-of-{len(shards):05}" if len(shards) > 1 else ""
        file = SAFE.replace(".", f"{place}.")
        write_safetensors(folder / file, shard, value)
        weight_map |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        metadata = {"total_size": sum(n_bytes(*entry) for entry in layout.values())}
        write_json(folder / f"{SAFE}.index.json", {"metadata": metadata, "weight_map": weight_map})
    write_json(folder / "config.json", config_to_hf(config, model_type, dtype))
    write_json(folder / "generation_config.json", IDS)


def _resize_rows(table: np.ndarray, n_rows: int) -> np.ndarray:
    """Give a table [V, D] another number of rows: cut the end, or add the mean of all rows."""
    if n_rows <= len(table):
        return table[:n_rows]
    mean = table.mean(axis=0, dtype=np.float64).astype(table.dtype)
    return np.concatenate([table, np.broadcast_to(mean, (n_rows - len(table), len(mean)))])


def _match(files: TensorFiles, config: T5Config, tie: bool | None) -> dict[str, str]:
    """Map our paths to names in the files, or refuse everything that does not fit at once."""
    found, where = files.shapes, files.folder
    if not any(name.startswith("decoder.") for name in found):
        raise UserError(f"{where}: {NO_DECODER}")
    n_layers = config.n_encoder_layers + config.n_decoder_layers
    if n_layers > len(found):  # before they are listed
        raise UserError(
            f"{where}: config.json says {n_layers} layers, and the files hold {len(found)} tensors"
        )
    table = next((n for n in (hf_names.TABLE, *hf_names.TABLE_ALIASES) if n in found), None)
    if table is None and config.tied and hf_names.HEAD in found:
        table = hf_names.HEAD
    shapes = _file_shapes(config)
    source_of, missing, mis_shaped = {}, [], []
    for path, tensor in hf_names.tensors(config).items():
        name = table if table and tensor.name == hf_names.TABLE else tensor.name
        if name == hf_names.HEAD and name not in found and table is not None:
            if tie is False:
                raise UserError(
                    f"{where}: config.json says tie_word_embeddings is false, but the files hold "
                    f"no {hf_names.HEAD}: their output is tied to {table}. Correct the one that "
                    "is wrong"
                )
            name = table
        source_of[path] = name
        if name not in found:
            missing.append(f"{tensor.name} {shapes[tensor.name]}")
        elif found[name] != shapes[tensor.name]:
            mis_shaped.append(f"{name}: config {shapes[tensor.name]}, file {found[name]}")
    copies = {*hf_names.TABLE_ALIASES, hf_names.HEAD} & found.keys() - set(source_of.values())
    extra = [
        f"{name} {shape}"
        for name, shape in found.items()
        if name not in {*source_of.values(), *copies} and not hf_names.UNUSED.fullmatch(name)
    ]
    lists = {
        "the config needs, the files lack": missing,
        "the files hold, the config has no place for": extra,
        "of another shape": mis_shaped,
    }
    if any(lists.values()):
        report = [f"{what}: {_some(names)}" for what, names in lists.items() if names]
        raise UserError(f"the weights in {where} do not fit its config.json\n" + "\n".join(report))
    assert table is not None  # it would be missing
    for name in sorted(copies):
        if files.equal(name, table):
            continue
        if name == hf_names.HEAD:
            raise UserError(
                f"{where}: config.json says that the output is tied to the embedding and scaled, "
                f"but {name} differs from {table}: the files are of an untied model. Set "
                "tie_word_embeddings to false (and scale_decoder_outputs, if there) in config.json "
                "if the files are right"
            )
        raise UserError(f"{where}: {name} differs from {table}; T5 has one table for both")
    return source_of


def _some(names: list[str], limit: int = 20) -> str:
    shown = names[:limit] + [f"and {len(names) - limit} more"] * (len(names) > limit)
    return f"{len(names)}\n" + "\n".join(f"  {name}" for name in shown)


def _shapes(config: T5Config) -> Params:
    return jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))


def _file_shapes(config: T5Config) -> dict[str, tuple[int, ...]]:
    ours = {path: leaf.shape for path, leaf in _flat(_shapes(config)).items()}
    return {
        tensor.name: ours[path][::-1] if tensor.transposed else ours[path]
        for path, tensor in hf_names.tensors(config).items()
    }


def _shards(layout: dict[str, Any], max_bytes: int) -> list[dict[str, Any]]:
    """Cut a layout, in order, into parts within a size, a larger tensor alone in its part."""
    shards: list[dict[str, Any]] = [{}]
    room = max_bytes
    for name, entry in layout.items():
        if shards[-1] and n_bytes(*entry) > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = entry
        room -= n_bytes(*entry)
    return shards


def _on_host(leaf: Any) -> np.ndarray:
    if isinstance(leaf, np.ndarray):
        return leaf
    shards = [shard for shard in leaf.addressable_shards if shard.replica_id == 0]
    if len(shards) == 1:
        return np.asarray(shards[0].data)
    # Not np.asarray(leaf), which would keep the copy with the array.
    out = np.empty(leaf.shape, leaf.dtype)
    for shard in shards:
        out[shard.index] = np.asarray(shard.data)
    return out


def _flat(tree: Any) -> dict[str, Any]:
    return {path_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}
