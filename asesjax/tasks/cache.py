"""Offline caches in seqio's own format, read with ``use_cached=True``. ``seqio_cache_tasks`` needs
Apache Beam and changes the order each time; ours keeps the source's, and gives the same bytes.
"""

import itertools
from collections import Counter
from pathlib import Path

import seqio
import tensorflow as tf

from asesjax.core.errors import UserError
from asesjax.core.files import write_json
from asesjax.models.hf_files import new_folder
from asesjax.tasks.load import get_provider

# dtypes that tf.train.Example and seqio's reader preserve
_STORED = (tf.int32, tf.int64, tf.float32, tf.string, tf.bool)


def write_cache(name: str, folder: str | Path, num_shards: int = 1, seed: int = 0) -> Path:
    """Write every split of a task, preprocessed up to its ``CacheDatasetPlaceholder``.

    The cache is ``folder/name``, which is returned, and is written whole or not at all;
    ``seqio.add_global_cache_dirs([folder])`` lets seqio find it. Example i goes to file
    ``i % num_shards``. Raises UserError for a task that is not there or has no placeholder, for an
    empty split and where the folder exists or cannot be written.
    """
    task = get_provider(name)
    if not isinstance(task, seqio.Task) or not task.supports_caching:
        raise UserError(f"{name} cannot be cached: no task with a seqio.CacheDatasetPlaceholder")
    folder = Path(folder).joinpath(*name.split(":"))
    with new_folder(folder) as part:
        for split in task.splits:
            _write_split(task, split, part, num_shards, seed)
        (part / "COMPLETED").touch()
    return folder


def _write_split(task: seqio.Task, split: str, folder: Path, num_shards: int, seed: int) -> None:
    ds = task.source.get_dataset(split=split, shuffle=False)
    ds = task.preprocess_precache(ds, seed=seed)
    for key, spec in ds.element_spec.items():
        if spec.shape.rank not in (0, 1) or spec.dtype not in _STORED:
            raise UserError(f"{task.name}: feature {key!r} cannot be cached: {spec}")
    stats = Counter[str]()
    names = [f"{split}.tfrecord-{i:05d}-of-{num_shards:05d}" for i in range(num_shards)]
    writers = [tf.io.TFRecordWriter(str(folder / name)) for name in names]
    for writer, row in zip(itertools.cycle(writers), ds.as_numpy_iterator(), strict=False):
        example = seqio.utils.dict_to_tfexample(row)
        writer.write(example.SerializeToString(deterministic=True))
        stats["examples"] += 1
        for key in task.output_features:
            n = len(row.get(key, ()))
            stats[f"{key}_tokens"] += n
            stats[f"{key}_max_tokens"] = max(stats[f"{key}_max_tokens"], n)
    for writer in writers:
        writer.close()
    if not stats["examples"]:
        raise UserError(f"split {split} of {task.name} has no examples")
    features = {key: {"shape": [None] * spec.shape.rank, "dtype": spec.dtype.name}
                for key, spec in ds.element_spec.items()}  # fmt: skip
    info = {"num_shards": num_shards, "features": features, "seqio_version": seqio.__version__}
    write_json(folder / f"info.{split}.json", info)
    write_json(folder / f"stats.{split}.json", stats)
