"""Read a Hugging Face T5 or mT5 into a checkpoint, or write a checkpoint for transformers.

In:   asesjax convert --from-hf DIR --out CKPT
      DIR may be a name on the hub, google/flan-t5-base. A run starts from CKPT (or from DIR) when
      model.init_from names it.
Out:  asesjax convert --to-hf DIR --checkpoint CKPT
      CKPT is what --from-hf wrote, or WORKDIR/roles/METHOD/ROLE of a run, of which the selected
      checkpoint is taken (train.keep_best), or one folder step_<n>.
Nothing is overwritten, and a failure leaves nothing behind.
"""

import argparse
import dataclasses
import re
import resource
import sys
import time
from pathlib import Path

from asesjax.core.errors import UserError, unknown
from asesjax.core.hub import from_hub
from asesjax.data.hf_tokenizer import FILES, copy_tokenizer, write_hf_tokenizer
from asesjax.models.hf_files import DTYPES, new_folder

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
        "--allow-pickle", action="store_true", help="with --from-hf: read pytorch_model.bin (by "
        "torch, weights_only) where there is no model.safetensors",
    )  # fmt: skip
    parser.add_argument("--dtype", help="with --to-hf: float32 (default), bfloat16 or float16")
    parser.add_argument("--max-shard-gb", type=float, help="with --to-hf: split above that; 5")
    parser.add_argument(
        "--vocab-rows", metavar="N|tokenizer",
        help="rows of the embedding that is written: a number, or as many as the tokenizer has "
        "ids; default: unchanged (T5 has 32128 rows for 32100 ids). Added rows are the mean row",
    )  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Convert one way or the other, and say what it took."""
    start = time.perf_counter()
    way, needed = ("--from-hf", "out") if args.from_hf else ("--to-hf", "checkpoint")
    foreign = ("checkpoint", "dtype", "max_shard_gb") if args.from_hf else ("out", "allow_pickle")
    for name in foreign:
        if getattr(args, name) not in (None, False):
            raise UserError(f"--{name.replace('_', '-')} does not go with {way}")
    if not getattr(args, needed):
        raise UserError(f"{way} needs --{needed}")
    (_from_hf if args.from_hf else _to_hf)(args)
    unit = 1 if sys.platform == "darwin" else 1024  # kilobytes on Linux, bytes on macOS
    peak = unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e9
    print(f"took {time.perf_counter() - start:.1f} s; peak memory of the process {peak:.2f} GB")


def _from_hf(args: argparse.Namespace) -> None:
    from asesjax.models.hf_io import load_params
    from asesjax.training.checkpoint import save_params
    from asesjax.training.describe import describe_hf

    if Path(args.out).exists():
        raise UserError(f"{args.out} exists; nothing is overwritten, give another --out")
    source = _find_hf(args.from_hf, args.allow_pickle)
    start = describe_hf(source)
    rows = _vocab_rows(args.vocab_rows, start)
    config, params = load_params(source, vocab_rows=rows, allow_pickle=args.allow_pickle)
    start = dataclasses.replace(start, model=config, origin=args.from_hf)
    start.check_rows()
    with new_folder(args.out) as out:
        save_params(out, params, start)
    print(f"{args.out}: {_size(params)}. Start a run from it with")
    print(f"  --config.model.init_from={args.out}")
    if start.vocab is None:
        print(
            f"  (nothing in {args.from_hf} says what its vocabulary is: put its spiece.model or "
            "tokenizer.json there and convert it again, or name it by vocab.kind and vocab.path)"
        )
    for name, value, ours in start.without_field():
        print(f"  (a configuration has no field for {name}={value}: runs compute with {ours})")


def _to_hf(args: argparse.Namespace) -> None:
    import jax

    from asesjax.models import t5
    from asesjax.models.hf_io import save_hf
    from asesjax.training.checkpoint import restore_params
    from asesjax.training.describe import describe_start

    dtype = args.dtype or "float32"
    if dtype not in DTYPES:
        raise unknown("--dtype", dtype, DTYPES)
    shard_gb = 5.0 if args.max_shard_gb is None else args.max_shard_gb
    if not 1e-9 <= shard_gb < 1e9:
        raise UserError(f"--max-shard-gb must be above 0, got {shard_gb}")
    start = describe_start(args.checkpoint)
    if start.is_hf:
        raise UserError(f"{args.checkpoint} is a folder of Hugging Face already")
    rows = _vocab_rows(args.vocab_rows, start)
    assert start.place is not None and start.vocab_folder is not None  # described from there
    note = f"no tokenizer is written: {start.place} holds none"
    with new_folder(args.to_hf) as out:
        here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        shapes = jax.eval_shape(lambda key: t5.init(start.model, key), jax.random.key(0))
        target = jax.tree.map(lambda leaf: leaf.update(sharding=here), shapes)
        params = restore_params(start.place, target)
        save_hf(out, start.model, params, start.model_type, dtype, int(shard_gb * 10**9), rows)
        if copy_tokenizer(start.vocab_folder, out):  # as transformers wrote it
            note = ""
        elif start.vocab is not None:
            note = write_hf_tokenizer(start.vocab, out)
    print(f"{args.to_hf}: {_size(params)}, {dtype}" + (f"\n  {note}" if note else ""))


def _find_hf(name: str, allow_pickle: bool) -> Path:
    """Return the folder of a Hugging Face model; the hub is asked for ``owner/name`` only."""
    if Path(name).is_dir():
        return Path(name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", name):
        raise UserError(f"{name} is no folder (and a name on the hub has the form owner/name)")
    patterns = ["config.json", *FILES, *_WEIGHTS, *_PICKLES * allow_pickle]
    return from_hub(name, patterns)


def _vocab_rows(text: str | None, start) -> int | None:
    """Read --vocab-rows; ``start`` describes the checkpoint."""
    if text is None:
        return None
    ids = 0 if start.vocab is None else start.vocab.size
    if text == "tokenizer":
        if not ids:
            raise UserError(f"--vocab-rows: {start.place} holds no tokenizer; give a number")
        return ids
    if not text.isdecimal() or int(text) < 1:
        raise UserError(f"--vocab-rows must be a number above 0 or 'tokenizer', got {text!r}")
    if int(text) < ids:
        raise UserError(
            f"--vocab-rows {text} is fewer than the {ids} ids of the tokenizer in {start.place}"
        )
    return int(text)


def _size(params) -> str:
    import jax

    return f"{sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6:.1f} M parameters"
