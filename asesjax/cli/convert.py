"""Read a Hugging Face T5 or mT5 into a checkpoint, or write a checkpoint for transformers.

In:   asesjax convert --from-hf DIR --out CKPT
      DIR may be a name on the hub, google/flan-t5-base. CKPT can be given as model.init_from; its
      model.json holds the shape that the model section of a configuration must repeat.
Out:  asesjax convert --to-hf DIR --checkpoint CKPT
      CKPT is what --from-hf wrote, or WORKDIR/roles/METHOD/ROLE of a run.
Nothing is overwritten, and a failure leaves nothing behind.
"""

import argparse
import dataclasses
import functools
import re
import resource
import shutil
import sys
import time
from pathlib import Path

# What a folder of transformers may hold of a tokenizer.
TOKENIZER_FILES = (
    "spiece.model", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json",
)  # fmt: skip
_WEIGHTS = ("model.safetensors", "model-*-of-*.safetensors", "model.safetensors.index.json")
_PICKLES = ("pytorch_model.bin", "pytorch_model-*.bin", "pytorch_model.bin.index.json")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    way = parser.add_mutually_exclusive_group(required=True)
    way.add_argument("--from-hf", metavar="DIR", help="folder to read, or owner/name on the hub")
    way.add_argument("--to-hf", metavar="DIR", help="folder to write; must not exist")
    parser.add_argument("--out", metavar="CKPT", help="with --from-hf: folder to write")
    parser.add_argument("--checkpoint", metavar="CKPT", help="with --to-hf: what to write")
    parser.add_argument(
        "--allow-pickle", action="store_true",
        help="with --from-hf: read pytorch_model.bin (by torch, weights_only) where there is no "
        "model.safetensors",
    )
    parser.add_argument(
        "--dtype", help="with --to-hf: float32 (default), bfloat16 or float16",
    )
    parser.add_argument(
        "--max-shard-gb", type=float, help="with --to-hf: larger than this is split; default 5",
    )
    parser.add_argument(
        "--vocab-rows", metavar="N|tokenizer",
        help="rows of the embedding to come out with: a number, or as many as the tokenizer has "
        "ids; default: unchanged (T5 has 32128 rows for 32100 ids). Added rows are the mean row",
    )


def main(args: argparse.Namespace) -> None:
    """Convert one way or the other, and say what it took."""
    from asesjax.core.errors import UserError

    start = time.perf_counter()
    way, needed = ("--from-hf", "out") if args.from_hf else ("--to-hf", "checkpoint")
    theirs = {"out", "allow_pickle"} if args.from_hf else {"checkpoint", "dtype", "max_shard_gb"}
    for name in ("out", "allow_pickle", "checkpoint", "dtype", "max_shard_gb"):
        if name not in theirs and getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} does not go with {way}")
    if not getattr(args, needed):
        raise UserError(f"{way} needs --{needed}")
    (_from_hf if args.from_hf else _to_hf)(args)
    # Kilobytes on Linux, bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = time.perf_counter() - start
    print(f"took {seconds:.1f} s; peak memory of the process {peak / 1e9:.2f} GB")


def _from_hf(args: argparse.Namespace) -> None:
    from asesjax.core.errors import UserError
    from asesjax.core.files import write_json
    from asesjax.models.hf_config import read_config
    from asesjax.models.hf_files import new_folder
    from asesjax.models.hf_io import load_params
    from asesjax.train.checkpoint import save_params

    if Path(args.out).exists():
        raise UserError(f"{args.out} exists; nothing is overwritten, give another --out")
    source = find_hf(args.from_hf, args.allow_pickle)
    rows = _vocab_rows(args.vocab_rows, lambda: _hf_vocabulary(source), source)
    config, params = load_params(source, vocab_rows=rows, allow_pickle=args.allow_pickle)
    with new_folder(args.out) as out:
        save_params(out, params)
        write_json(
            out / "model.json",
            {"model_type": read_config(source)["model_type"], "origin": str(args.from_hf),
             "model": dataclasses.asdict(config)},
        )  # fmt: skip
        _copy_tokenizer(source, out)
    print(f"{args.out}: {_size(params)}. Start a run from it with\n{_run_fields(args.out, config)}")


def _run_fields(out: str, config) -> str:
    """The overrides with which a run fits a converted checkpoint."""
    from asesjax.config import base_config

    shape, known = dataclasses.asdict(config), base_config().model
    fields = {f"model.{k}": shape[k] for k in known if k in shape and k != "dtype"}
    fields["model.init_from"] = out
    if (Path(out) / "spiece.model").is_file():
        fields |= {"vocab.kind": "sentencepiece", "vocab.path": f"{out}/spiece.model",
                   "vocab.extra_ids": _extra_ids(Path(out))}  # fmt: skip
    lines = [f"  --config.{name}={value}" for name, value in fields.items()]
    defaults = {field.name: field.default for field in dataclasses.fields(config)}
    lines += [
        f"  (a configuration has no field for {name}={value}: runs compute with {defaults[name]})"
        for name, value in shape.items()
        if name not in known and name != "vocab_size" and value != defaults[name]
    ]
    return "\n".join(lines)


def _to_hf(args: argparse.Namespace) -> None:
    import jax

    from asesjax.core.errors import UserError, unknown
    from asesjax.models import t5
    from asesjax.models.hf_files import DTYPES, new_folder
    from asesjax.models.hf_io import save_hf
    from asesjax.train.checkpoint import restore_params

    dtype = args.dtype or "float32"
    if dtype not in DTYPES:
        raise unknown("--dtype", dtype, DTYPES)
    shard_gb = 5.0 if args.max_shard_gb is None else args.max_shard_gb
    if not 1e-9 <= shard_gb < 1e9:
        raise UserError(f"--max-shard-gb must be above 0, got {shard_gb}")
    config, model_type, folder, vocabulary = _find_model(Path(args.checkpoint))
    rows = _vocab_rows(args.vocab_rows, vocabulary, folder)
    with new_folder(args.to_hf) as out:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here),
            jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0)),
        )
        params = restore_params(args.checkpoint, target)
        save_hf(out, config, params, model_type, dtype, int(shard_gb * 10**9), rows)
        note = _write_tokenizer(folder, vocabulary, out)
    print(f"{args.to_hf}: {_size(params)}, {dtype}" + (f"\n  {note}" if note else ""))


def find_hf(name: str, allow_pickle: bool = False) -> Path:
    """Return the folder of a Hugging Face model; the hub is asked for ``owner/name`` only.

    Args:
      name: a folder, or a name on the hub where there is no such folder.
      allow_pickle: fetch pickled weights, too.

    Raises:
      UserError: neither a folder nor to be had from the hub.
    """
    from asesjax.core.errors import UserError

    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"{name} is no folder (and a name on the hub has the form owner/name)")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise UserError(
            f"{name} is no folder, and fetching it from the hub needs huggingface_hub: "
            "pip install asesjax[hf]"
        ) from None
    patterns = ["config.json", *TOKENIZER_FILES, *_WEIGHTS, *(_PICKLES if allow_pickle else ())]
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except Exception as error:  # of the hub, of its HTTP client, of the network
        told = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        raise UserError(
            f"{name} is no folder here, and could not be fetched from the hub ({told}). Check the "
            "name and the network, or copy the model's folder to this machine and give its path"
        ) from None


def _find_model(checkpoint: Path):
    """Return T5Config, model type, folder of the tokenizer, and what loads its vocabulary."""
    from asesjax.core.errors import UserError
    from asesjax.core.files import read_json
    from asesjax.data.vocab import load_saved
    from asesjax.experiment import open_run
    from asesjax.models.t5_config import T5Config
    from asesjax.run import model_config

    checkpoint = checkpoint.absolute()
    for folder in (checkpoint, checkpoint.parent):
        if (folder / "model.json").is_file():
            facts = read_json(folder / "model.json")
            try:
                config, model_type = T5Config(**facts["model"]), facts["model_type"]
            except (TypeError, KeyError) as error:
                raise UserError(f"{folder}/model.json is not of asesjax convert: {error}") from None
            return config, model_type, folder, functools.partial(_hf_vocabulary, folder)
    for folder in checkpoint.parents:
        if folder.name == "roles" and (folder.parent / "config.json").is_file():
            run = open_run(None, folder.parent)
            load = functools.partial(load_saved, run / "vocab")
            return model_config(run, load()), "t5", run / "vocab", load
    raise UserError(
        f"{checkpoint} has no model.json beside it, as asesjax convert --from-hf writes, and does "
        "not lie in WORKDIR/roles/METHOD/ROLE of a run; its shape cannot be known"
    )


def _hf_vocabulary(folder: Path):
    """Load the vocabulary of a folder of transformers, None where there is no spiece.model."""
    from asesjax.data.vocab import load_vocabulary

    if not (folder / "spiece.model").is_file():
        return None
    return load_vocabulary("sentencepiece", str(folder / "spiece.model"), _extra_ids(folder))


def _extra_ids(folder: Path) -> int:
    from asesjax.core.files import read_json

    path = folder / "tokenizer_config.json"
    return read_json(path).get("extra_ids", 100) if path.is_file() else 100


def _vocab_rows(text: str | None, vocabulary, folder: Path) -> int | None:
    from asesjax.core.errors import UserError

    if text is None:
        return None
    vocab = vocabulary()
    if text == "tokenizer":
        if vocab is None:
            raise UserError(f"--vocab-rows: {folder} holds no spiece.model; give a number")
        return vocab.size
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--vocab-rows must be a number above 0 or 'tokenizer', got {text!r}")
    if vocab is not None and int(text) < vocab.size:
        raise UserError(
            f"--vocab-rows {text} is fewer than the {vocab.size} ids of the tokenizer in {folder}"
        )
    return int(text)


def _copy_tokenizer(source: Path, out: Path) -> None:
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, out / name)


def _write_tokenizer(folder: Path, vocabulary, out: Path) -> str:
    from asesjax.data.hf_tokenizer import write_hf_tokenizer

    if (folder / "tokenizer_config.json").is_file() or (folder / "tokenizer.json").is_file():
        _copy_tokenizer(folder, out)  # as transformers wrote them
        return ""
    vocab = vocabulary()
    if vocab is None:
        return f"no tokenizer is written: {folder} holds none"
    return write_hf_tokenizer(vocab, out)


def _size(params) -> str:
    import jax

    return f"{sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f} M parameters"
