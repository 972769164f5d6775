"""A run: its configuration, its folder, and how to load what lies there."""

import copy
import dataclasses
import functools
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh

from asesjax.core.buckets import workdir
from asesjax.core.errors import UserError
from asesjax.core.files import read_record
from asesjax.core.options import Config, fingerprint, flatten, from_fields, reads
from asesjax.core.processes import part, say
from asesjax.core.types import Params
from asesjax.data.corpus import read_corpus
from asesjax.data.vocab import Vocabulary, load_saved
from asesjax.decode.options import CHOSEN
from asesjax.methods.method import Method, TrainedMethod, make_method
from asesjax.models import t5
from asesjax.models.hf_io import load_params
from asesjax.models.layers import MATRICES
from asesjax.models.presets import configured
from asesjax.models.t5_config import T5Config, token_flops
from asesjax.sharding.mesh import make_mesh
from asesjax.sharding.place import param_shardings, rules
from asesjax.training.checkpoint import restore_params
from asesjax.training.describe import Description, describe_start

# Bounds of decoding that were chosen from the data, and parts of a step by the memory, by row.
LENGTHS, PARTS = "lengths.json", "microbatches"


@dataclasses.dataclass(frozen=True)
class Run:
    """A configuration and the folder it runs in."""

    config: Config
    workdir: Path
    say: Callable[[str], None] = say
    # the folder above, where runs of several seeds or of a sweep share programs, students, and
    # stages of the same fields
    shared: Path | None = None

    def __truediv__(self, name: str) -> Path:
        return self.workdir / name


def one_seed(run: Run) -> None:
    """Raise UserError if the configuration is of several seeds."""
    if run.config.seeds:
        raise UserError(
            f"{run.workdir} is of several seeds, {tuple(run.config.seeds)}, which asesjax run and "
            f"report take; give one of its runs, such as {run / f'seed-{run.config.seeds[0]}'}"
        )


def keep_programs(run: Run) -> None:
    """Keep compiled programs in the run's folder, unless JAX_COMPILATION_CACHE_DIR is set."""
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    jax.config.update("jax_compilation_cache_dir", str((run.shared or run.workdir) / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
    # Without a reset, jax would write a second run of this process into the first one's folder.
    compilation_cache.reset_cache()


def student_run(run: Run) -> Run | None:
    """Return the run that trains the student which all rows start from: that of this run with the
    fields of ``pretrain``, whose training and decoding have options of their own, in a folder named
    by all that makes it. None where nothing is pretrained, or ``model.init_from`` names a
    checkpoint instead.
    """
    config = run.config
    if not config.pretrain or config.model.init_from:
        return None
    fields = {name: value for name, value in flatten(config).items()
              if name.split(".")[0] not in ("train", "decode", "variants", "pretrain")}  # fmt: skip
    own = dict(config.pretrain)
    name = own.pop("method")
    config = from_fields(fields | own | {"name": "student", "methods": (name,)}, "pretrain")
    method = make_method(name, config)
    made_by = reads(config, "seed", "data", "vocab", "model", "train", "decode", "evaluate")
    for kind in ("train", "decode", "report"):
        made_by |= method.reads(kind)
    for stage in method.stages(dataclasses.replace(run, config=config)):
        made_by |= stage.reads
    beside = (run.shared or run.workdir) / "students"
    shared = workdir(config.students) if config.students else beside
    return Run(config, shared / f"{name}-{fingerprint(made_by)}", run.say)


def start_place(run: Run) -> str:
    """Return the checkpoint that roles start from: ``model.init_from``, the student, or none."""
    student = student_run(run)
    if student is None:
        return run.config.model.init_from
    method = make_method(student.config.methods[0], student.config)
    return str(role_folder(student, method.name, method.roles[0]))


def model_config(run: Run, vocab: Vocabulary) -> T5Config:
    """Return the model's shape, with ``model.vocab_rows``. Raises UserError if these are fewer than
    the vocabulary's ids.
    """
    rows = run.config.model.vocab_rows or -(-vocab.size // 128) * 128
    if rows < vocab.size:
        raise UserError(
            f"model.vocab_rows is {rows}, fewer than the {vocab.size} ids of the vocabulary; set "
            "it to 0, or, where model.init_from names the weights, add rows to them with asesjax "
            "convert --vocab-rows tokenizer"
        )
    return configured(run.config.model, rows)


def _parameter_bytes(config: Config) -> float:
    least = configured(config.model, 128)  # the vocabulary is not known yet
    return 2 * sum(token_flops(least, 0, 0))  # two operations and four bytes a parameter


def device_bytes() -> int:
    """Return the memory of a device, 0 where it is the machine's."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)


def check_size(config: Config) -> None:
    """Raise UserError for a model whose parameters alone are larger than the memory there is."""
    needed = _parameter_bytes(config)
    if of_device := device_bytes():
        there = of_device * jax.device_count()
    else:
        there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * jax.process_count()
    if needed > there:
        raise UserError(
            f"the parameters of the model section take {needed / 2**30:,.1f} GiB, and there are "
            f"{there / 2**30:,.1f} GiB; lower model.d_model, model.d_ff, model.n_heads, "
            "model.d_kv or the layers, or take more devices"
        )


def role_folder(run: Run, row: str, role: str) -> Path:
    """Return the folder of one parameter set of a row of the results table."""
    return run / f"roles/{row}/{role}"


def load_role(
    run: Run, method: Method, role: str, step: int | None = None, decoding: bool = False,
    mesh: Mesh | None = None,
) -> Params:  # fmt: skip
    """Restore the parameters of a role, those selected or of a step, perhaps for decoding, onto a
    mesh, by default that of passes over data.
    """
    run = dataclasses.replace(run, config=method.config)
    config = model_config(run, load_saved(run / "vocab"))
    describe = decoding_shapes if decoding else placed_shapes
    shapes = describe(run, config, mesh or own_mesh(run))
    return restore_params(role_folder(run, method.name, role), shapes, step)


def load_method(run: Run, name: str) -> TrainedMethod:
    """Load everything that decoding with a trained method takes."""
    method, vocab = make_method(name, run.config), load_saved(run / "vocab")
    params = {role: load_role(run, method, role, decoding=True) for role in method.roles}
    return trained(run, method, params, vocab)


def trained(
    run: Run, method: Method, params: dict[str, Params], vocab: Vocabulary
) -> TrainedMethod:
    """Put together what answering with some parameters of a method takes."""
    run = dataclasses.replace(run, config=method.config)
    method = with_lengths(run, method)
    method.recall(run.workdir)
    template = run.config.data.answer_template
    corpus = functools.partial(read_corpus, run.workdir, "train", template)
    return TrainedMethod(method, model_config(run, vocab), params, vocab, corpus)


def has_lengths(method: Method) -> bool:
    """Tell whether the configuration of a row leaves no bound of decoding to the data."""
    return all(getattr(method.config.decode, name) for name in CHOSEN)


def with_lengths(run: Run, method: Method) -> Method:
    """Return a row with what its configuration leaves to the data and the memory."""
    if has_lengths(method) and method.config.train.microbatches:
        return method
    chosen = read_record(run / LENGTHS).get(method.name, {})
    return with_bounds(method, chosen)


def with_bounds(method: Method, chosen: Mapping[str, Any]) -> Method:
    """Return a row with such fields in place of those that are 0 or ()."""
    full = {f"train.{name}" if name == PARTS else f"decode.{name}": value
            for name, value in chosen.items()}  # fmt: skip
    there = flatten(method.config)
    absent = {name: value for name, value in full.items() if not there[name]}
    own = copy.copy(method)
    own.config = method.config.changed(absent)
    return own


def untouched(run: Run, model: T5Config, mesh: Mesh | None = None) -> Params:
    """Return the parameters that roles start from, drawn where nothing is loaded, on a mesh or
    that of the run.
    """
    start = load_start(run, model, mesh)
    if start is not None:
        return start
    # As the training loop draws them.
    init_key, _ = jax.random.split(jax.random.key(run.config.seed))
    shapes = placed_shapes(run, model, mesh or run_mesh(run))
    places = jax.tree.map(lambda leaf: leaf.sharding, shapes)
    return jax.jit(functools.partial(t5.init, model), out_shardings=places)(init_key)


def load_start(run: Run, model: T5Config, mesh: Mesh | None = None) -> Params | None:
    """Load the parameters of ``start_place``, None where there is none. Raises UserError if it is
    no checkpoint or Hugging Face folder, or has another vocabulary or shape.
    """
    place = start_place(run)
    if not place:
        return None
    start = describe_start(place)
    start.check_start(model, load_saved(run / "vocab"))
    return load_described(run, start, model, mesh)


def load_described(
    run: Run, start: Description, model: T5Config, mesh: Mesh | None = None
) -> Params:
    """Load the parameters of a described checkpoint or Hugging Face folder onto a mesh, by default
    the run's.
    """
    shapes = placed_shapes(run, model, mesh or run_mesh(run))
    place = start.place
    assert place is not None  # described from there
    if start.is_hf:
        return load_params(place, jax.tree.map(lambda leaf: leaf.sharding, shapes))[1]
    return restore_params(place, shapes)


def run_mesh(run: Run) -> Mesh:
    """Arrange the devices of all processes as the configuration says."""
    mesh = run.config.mesh
    return make_mesh(mesh.data, mesh.fsdp, mesh.tensor, slices=mesh.slices)


def own_mesh(run: Run, devices: Sequence[jax.Device] = ()) -> Mesh:
    """Arrange the devices for passes over data (scoring, decoding): of several processes each its
    own ones, or those given, so that an axis may be smaller than configured; or all of them, as
    ``mesh.passes`` says.
    """
    mesh = run.config.mesh
    if not devices and jax.process_count() == 1:
        return run_mesh(run)
    own = devices or jax.local_devices()
    tensor = math.gcd(len(own), max(mesh.tensor, 0))
    fsdp = math.gcd(len(own) // tensor, max(mesh.fsdp, 0))
    if not devices and part()[1] > 1 and all_devices(run.config, tensor * fsdp, device_bytes()):
        return run_mesh(run)
    return make_mesh(-1, fsdp, tensor, own)


def all_devices(config: Config, split: int, memory: int) -> bool:
    """Tell whether processes do passes over data together, because ``mesh.passes`` says so, or
    because parameters split over so many devices of a process would fill half of the memory of
    each, in bytes (0: not known); the other half is for caches.
    """
    halved = config.model.dtype == "bfloat16" and not config.decode.int8  # decoding_shapes
    needed = _parameter_bytes(config) / (2 if halved else 1) / split
    return config.mesh.passes == "all" or (
        config.mesh.passes == "auto" and memory > 0 and needed > memory / 2
    )


def describe_devices(run: Run) -> str:
    """Say which devices a run has and what lies where on them. All processes call this together."""
    mesh, own, n = run_mesh(run), own_mesh(run), jax.process_count()
    split = mesh.shape["fsdp"] * mesh.shape["tensor"] if run.config.mesh.preset != "dp" else 1
    line = f"{mesh.size} devices ({mesh.devices.flat[0].device_kind})"
    line += f" in {n} processes, of which process 0 writes the files" if n > 1 else ""
    line += (
        f"; training: rows of a batch over {mesh.shape['data'] * mesh.shape['fsdp']} devices, "
        f"parameters over {split}; decoding: {run.config.decode.batch_size} questions at once"
    )
    if own.size < mesh.size:
        return f"{line}, shared by the processes, each with its {own.size} devices"
    return line + (", all processes together" if n > 1 else "")


def placed_shapes(run: Run, config: T5Config, mesh: Mesh) -> Params:
    """Describe the parameters and where they lie on a mesh, for restoring."""
    shapes = jax.eval_shape(lambda key: t5.init(config, key), jax.random.key(0))
    return placed(run, shapes, t5.logical_axes(config), mesh)


def placed(run: Run, shapes: Params, axes: Params, mesh: Mesh) -> Params:
    """Describe parameters of some shapes and logical axes on a mesh, by the run's preset."""
    on = param_shardings(mesh, rules(run.config.mesh.preset), axes, shapes)
    return jax.tree.map(
        lambda shape, place: jax.ShapeDtypeStruct(shape.shape, shape.dtype, sharding=place),
        shapes, on,
    )  # fmt: skip


def decoding_shapes(run: Run, config: T5Config, mesh: Mesh) -> Params:
    """Describe parameters as decoding takes them: matrices in the dtype of the products, which
    halves them in bfloat16 with the same results. What ``decode.int8`` rounds stays float32.
    """
    shapes = placed_shapes(run, config, mesh)
    if run.config.decode.int8:
        return shapes
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.update(dtype=config.activation_dtype)
        if path[-1].key in MATRICES else leaf,
        shapes,
    )  # fmt: skip
