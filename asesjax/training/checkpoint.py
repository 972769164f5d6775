"""Checkpoints of one role; the only module that knows Orbax.

A checkpoint ``step_<n>`` holds three items, ``params``, ``opt_state`` and ``cursor`` (JSON: the
step and what else must carry over), its description (``training/describe.py``), and ``files.json``
with the size and CRC-32 of all these files. Orbax renames its temporary folder at the end, so a
killed process leaves no half checkpoint; the checksums find later damage.
"""

import contextlib
import copy
import errno
import logging
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers as policies

from asesjax.core.buckets import mirrored
from asesjax.core.errors import UserError
from asesjax.core.files import read_json
from asesjax.core.processes import let_loss_end
from asesjax.core.types import Params
from asesjax.sharding.place import fetch
from asesjax.training.checkpoint_files import (
    PREFIX,
    find_checkpoint,
    find_damage,
    find_whole,
    set_aside,
    step_folder,
    steps,
    write_checksums,
)
from asesjax.training.describe import Description
from asesjax.training.state import TrainState

_CURSOR = "cursor/metadata"
# Orbax logs every file and, with tracebacks, failures that come as exceptions all the same; so does
# asyncio with those of its tasks.
for _logger in ("absl", "asyncio"):
    logging.getLogger(_logger).setLevel(logging.CRITICAL)


def warn(line: str) -> None:
    """Print one line to standard error, in process 0 alone."""
    if jax.process_index() == 0:
        print(line, file=sys.stderr, flush=True)


class Checkpoints:
    """Saves the checkpoints of a role without making training wait for the disk."""

    def __init__(
        self,
        folder: str | Path,
        keep_steps: Iterable[int] = (),
        keep_last: int = 2,
        description: Description | None = None,
    ):
        """Open or make a folder; leftovers of a killed save are removed. Checkpoints of
        ``keep_steps`` and the newest ``keep_last`` are not deleted.
        """
        if keep_last < 1:
            raise UserError(f"train.keep_last must be at least 1, got {keep_last}")
        self.folder = Path(folder).absolute()
        self.description = description
        self._gathers = _apart(folder)
        self._writes = not self._gathers or jax.process_index() == 0
        self._unraisable = sys.unraisablehook
        if not self._writes:
            return
        self._saving = 0
        self._failed = False
        keep = [policies.LatestN(keep_last), policies.CustomSteps(list(keep_steps))]
        options = ocp.CheckpointManagerOptions(
            step_prefix=PREFIX,
            create=not self._gathers,  # which Orbax refuses there
            cleanup_tmp_directories=True,
            preservation_policy=policies.AnyPreservationPolicy(keep),
            async_options=ocp.AsyncOptions(post_finalization_callback=self._complete),
            **({"multiprocessing_options": _by_process_0()} if self._gathers else {}),
        )
        if jax.process_index() == 0:
            # Orbax's note of when it wrote a checkpoint; one that is damaged would end the run.
            for note in self.folder.glob(f"{PREFIX}_*/_CHECKPOINT_METADATA"):
                with contextlib.suppress(OSError):
                    note.unlink()
        try:
            if self._gathers:
                self.folder.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)
        except OSError as error:
            raise _cannot_write(self.folder, error) from error
        sys.unraisablehook = self._drop_echoes

    def save(self, state: TrainState, cursor: dict[str, Any]) -> None:
        """Start saving; returns when the arrays may be donated. Waits for the previous save, whose
        failure is raised here as a UserError, as is a disk without room. ``cursor["step"]`` names
        it.
        """
        self.wait()
        state = _gathered(state) if self._gathers else state
        if not self._writes:
            return
        self._saving = step = cursor["step"]
        self._check_room(state)
        # It is written later, while training continues and changes what the cursor is made of.
        cursor = copy.deepcopy(cursor)
        args = ocp.args.Composite(
            params=ocp.args.StandardSave(state.params),
            opt_state=ocp.args.StandardSave(state.opt_state),
            cursor=ocp.args.JsonSave(cursor),
        )
        with self._writing():
            self._manager.save(step, args=args, force=True)

    def wait(self) -> None:
        """Wait until the last save is on disk; its failure is a UserError."""
        if not self._writes:
            return
        with self._writing():
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Wait and release the background threads; a failure is raised only once."""
        if not self._writes:
            return
        raised = self._failed
        try:
            with self._writing():
                self._manager.close()
        except UserError:
            if not raised:
                raise
        finally:
            sys.unraisablehook = self._unraisable

    def _drop_echoes(self, what: Any) -> None:
        # When one write fails, Orbax cancels the others, and each prints a traceback.
        if str(what.exc_value) != "Event loop is closed":
            self._unraisable(what)

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:
            # tensorstore's failures are ValueErrors that name the system's.
            if isinstance(error, ValueError) and "os_error_code" not in str(error):
                raise
            self._failed = True
            raise _cannot_write(self.folder, error) from error

    def _check_room(self, state: TrainState) -> None:
        if jax.process_index():
            return
        needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        if needed > (free := shutil.disk_usage(self.folder).free):
            self._failed = True
            raise _cannot_write(
                self.folder,
                OSError(errno.ENOSPC, f"it takes {needed:,} bytes, {free:,} are free on the disk"),
            )

    def _complete(self) -> None:
        # Called by Orbax between writing and renaming, in its thread.
        if jax.process_index():
            return
        for place in self.folder.glob(f"{PREFIX}_{self._saving}*"):
            if re.fullmatch(rf"{PREFIX}_{self._saving}(\..*)?", place.name):
                _describe(place, self.description)


def _apart(folder: str | Path) -> bool:
    """Tell whether the processes of the run have no such folder in common, so that process 0 writes
    all of a checkpoint.
    """
    return mirrored(folder) and jax.process_count() > 1


def _gathered(tree: Any) -> Any:
    # Leaf by leaf, because all of them at once may not fit a device.
    return jax.tree.map(lambda leaf: fetch(leaf, leaf.sharding.mesh), tree)


def _by_process_0() -> ocp.options.MultiprocessingOptions:
    return ocp.options.MultiprocessingOptions(
        primary_host=0, active_processes={0}, barrier_sync_key_prefix="first"
    )


def _describe(place: Path, description: Description | None) -> None:
    """Add what Orbax does not write."""
    if description is not None:
        description.write(place)
    write_checksums(place)


def save_params(folder: str | Path, params: Params, description: Description | None = None) -> Path:
    """Save parameters alone as ``step_0``, which must not exist, and return its folder."""
    place = step_folder(folder, 0).absolute()
    gathers = _apart(folder)
    if gathers:
        params = _gathered(params)
        if jax.process_index():
            return place
    # Arrays go to disk one after the other and in pieces; Orbax would buffer all of them at once.
    pieces = jax.tree.map(lambda _: ocp.SaveArgs(chunk_byte_size=2**24), params)
    largest = max(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))
    alone = {"multiprocessing_options": _by_process_0()} if gathers else {}
    frugal = ocp.StandardCheckpointHandler(
        save_concurrent_gb=max(1.1 * largest, 2**27) / 1e9, **alone
    )
    args = ocp.args.Composite(
        params=ocp.args.StandardSave(params, save_args=pieces),
        cursor=ocp.args.JsonSave({"step": 0}),
    )
    handler = ocp.CompositeCheckpointHandler(
        params=frugal, cursor=ocp.JsonCheckpointHandler(**alone),
        composite_options=ocp.CompositeOptions(**alone),
    )  # fmt: skip
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with ocp.Checkpointer(handler, **alone) as writer:
            writer.save(place, args=args)
        if jax.process_index() == 0:
            _describe(place, description)
    except OSError as error:
        raise _cannot_write(place.parent, error) from error
    return place


def restore_newest(
    folder: str | Path,
    target: TrainState,
    check_cursor: Callable[[dict[str, Any]], None] = lambda cursor: None,
    say: Callable[[str], None] = warn,
) -> tuple[TrainState, dict[str, Any]] | None:
    """Restore state and cursor of the newest checkpoint that can be read, if there is one.

    A damaged one is renamed to ``damaged_step_<n>``, and the one before is tried. ``target`` has
    ``ShapeDtypeStruct`` leaves with the shardings wanted now, on any mesh; ``check_cursor`` may
    raise UserError before the arrays are read. A checkpoint of another model or optimizer is a
    UserError.
    """
    there = steps(folder)
    while there:
        place = step_folder(folder, step := there.pop())
        damage = find_damage(place)
        if not damage:
            try:
                cursor = _read_cursor(place, step)
                check_cursor(cursor)
                _check_shapes(place, target.params)
                restored = _read(place, params=target.params, opt_state=target.opt_state)
                number = jax.device_put(np.int32(step), target.step.sharding)
                return TrainState(number, restored.params, restored.opt_state), cursor
            except UserError:
                raise
            except Exception as error:  # Orbax raises many kinds
                let_loss_end()
                why = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
                raise UserError(
                    f"checkpoint {place} is whole but cannot be restored: {why}; it may be of "
                    "another optimizer or version of the packages; give another workdir"
                ) from error
        aside = set_aside(place)
        then = f"going back to step {there[-1]}" if there else "none is left, starting over"
        say(f"warning: checkpoint {place} is damaged ({damage}); renamed to {aside.name}, {then}")
    return None


def restore_params(path: str | Path, target: Params, step: int | None = None) -> Params:
    """Restore parameters alone, from the checkpoint that ``find_whole(path, step)`` finds. Leaves
    of ``target`` are ``ShapeDtypeStruct`` with shardings. Other names or shapes are a UserError.
    """
    place = find_whole(path, step, warn)
    _check_shapes(place, target)
    return _read(place, params=target).params


def read_cursor(path: str | Path, step: int | None = None) -> dict[str, Any]:
    """Read the cursor of a checkpoint: step, seconds, tokens and whatever was saved with them."""
    place = find_checkpoint(path, step)
    if damage := find_damage(place, ("cursor",)):
        raise UserError(f"checkpoint {place} is damaged ({damage}); give an earlier one")
    return read_json(place / _CURSOR)


def _read_cursor(place: Path, step: int) -> dict[str, Any]:
    try:
        cursor = read_json(place / _CURSOR)
    except UserError as error:  # not the user's: the checkpoint is damaged
        raise ValueError(str(error)) from None
    if cursor.get("step") != step:
        raise ValueError(f"its cursor says step {cursor.get('step')}")
    return cursor


def _read(place: Path, **targets: Any) -> Any:
    # Usually every process reads; where the arrays go to one alone, it must not wait for others.
    devices = (leaf.sharding.device_set for leaf in jax.tree.leaves(targets))
    readers = {device.process_index for device in set().union(*devices)}
    together = ocp.options.MultiprocessingOptions()
    if len(readers) < jax.process_count():
        together = ocp.options.MultiprocessingOptions(
            primary_host=min(readers), active_processes=readers, barrier_sync_key_prefix="alone"
        )
    items = {name: ocp.args.StandardRestore(target) for name, target in targets.items()}
    handler = ocp.CompositeCheckpointHandler(
        composite_options=ocp.CompositeOptions(multiprocessing_options=together)
    )
    with ocp.Checkpointer(handler, multiprocessing_options=together) as reader:
        return reader.restore(place.absolute(), args=ocp.args.Composite(**items))


def _check_shapes(place: Path, target: Params) -> None:
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        tree = reader.metadata((place / "params").absolute()).item_metadata.tree
    found = {_name(path): tuple(leaf.shape) for path, leaf in jax.tree.leaves_with_path(tree)}
    expected = {_name(path): leaf.shape for path, leaf in jax.tree.leaves_with_path(target)}
    wrong = [
        f"  {name}: expected {expected.get(name, 'absent')}, found {found.get(name, 'absent')}"
        for name in sorted(expected | found)
        if expected.get(name) != found.get(name)
    ]
    if wrong:
        shown = wrong[:20] + [f"  and {len(wrong) - 20} more"] * (len(wrong) > 20)
        raise UserError(
            f"checkpoint {place} does not fit the model of the configuration; the parameters that "
            "differ:\n" + "\n".join(shown) + "\ngive the model section the checkpoint was "
            "trained with, or another workdir"
        )


def _name(path: tuple) -> str:
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _cannot_write(folder: Path, error: Exception) -> UserError:
    # tensorstore: "...: Failed to write 3 bytes to file 4: File too large [os_error_code='27']"
    message = str(error).partition(" [os_error_code")[0].rpartition(": ")[2]
    why = getattr(error, "strerror", None) or message
    return UserError(
        f"cannot write a checkpoint to {folder}: {why}; make room or give another --workdir, then "
        "run the same command again"
    )
