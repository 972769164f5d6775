"""Several processes of one run: how they start, and how they stay together.

Every process uses the devices of its machine, and all see the same workdir. Process 0 leads: it
alone prints and writes, and does what needs no devices. The others join it for training, and for
passes over data, of which each does a part on its own devices (``part``, ``all_gather``). They wait
in between: in Python, not in a collective, whose waits have an end and which no signal interrupts.
"""

import atexit
import contextlib
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from asesjax.core import buckets, signals
from asesjax.core.errors import EXIT_PREEMPTED, EXIT_STOPPED, Lost, UserError, harmless
from asesjax.core.link import Link, relay, watched
from asesjax.core.rendezvous import Peers, meet

START_TIMEOUT = 300.0  # seconds for all processes to connect
_peers: dict[str, Peers] = {}  # "open": the connections of this run, until check_same
_links: dict[str, Link] = {}  # "open": the same from then on
_following = contextlib.ExitStack()  # what holds from then on
_alone: list[bool] = [False]  # whether process 0 now does what the others wait for, innermost last
_END = -1
_LOSS_SECONDS = 3.0


def start(
    coordinator: str, processes: int | None = None, process: int | None = None,
    timeout: float = START_TIMEOUT,
) -> None:  # fmt: skip
    """Join the processes of a run, before anything asks jax for its devices.

    ``coordinator`` is ``host:port`` of process 0; "auto" on TPU pods, SLURM and Open MPI, where jax
    finds it and both numbers; "" for a single process. Waits up to ``timeout`` seconds and prints
    who is missing. Raises UserError for arguments that do not fit together or processes with
    different commits or packages, and Lost for missing ones.
    """
    numbers = processes is not None, process is not None
    if not coordinator and not any(numbers):
        return
    if not timeout > 0:
        raise UserError(f"--start-timeout must be above 0 seconds, got {timeout}")
    if coordinator == "auto" and any(numbers):
        raise UserError("--coordinator auto finds --processes and --process itself; leave them out")
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        if not (
            host and port.isdigit() and processes is not None and process is not None
            and 0 <= process < processes
        ):  # fmt: skip
            raise UserError(
                f"got --coordinator {coordinator!r} --processes {processes} --process {process}; "
                "expected the HOST:PORT of process 0, how many processes there are, and the number "
                "of this one, from 0; or --coordinator auto on a TPU pod or under SLURM"
            )
    import jax

    from asesjax.core.run_card import source_facts

    end, auto = time.monotonic() + timeout, coordinator == "auto"
    try:
        if auto:
            coordinator, processes, process = _find_out(timeout)
        assert processes is not None and process is not None  # asked for above
        left = max(end - time.monotonic(), 1.0)
        _peers["open"] = peers = meet(coordinator, processes, process, left)
        try:
            peers.compare(source_facts(), START_TIMEOUT)
            # Its handler of SIGTERM would take the place of ours.
            jax.config.update("jax_enable_preemption_service", False)
            # All are there, so only a handshake is left.
            at = relay(coordinator) if process else coordinator
            with watched(peers):
                jax.distributed.initialize(
                    at, processes, process, initialization_timeout=120,
                    cluster_detection_method="deactivate" if _has_devices(auto) else None,
                )  # fmt: skip
        except BaseException:
            _hang_up()
            raise
        # Runs before jax's own exit handler, which waits for the others: they must learn of it.
        atexit.register(_hang_up)
    except (RuntimeError, ValueError) as error:
        raise Lost(
            f"the processes of --coordinator {coordinator} did not find each other: "
            f"{str(error).splitlines()[0]}"
        ) from error


def _has_devices(auto: bool) -> bool:
    """Tell whether all devices that this process sees are its own. Under Slurm and Open MPI jax
    would take the one of the local rank, which is right where the tasks of a node share its GPUs.
    """
    here = os.environ.get("SLURM_STEP_TASKS_PER_NODE") or os.environ.get(
        "OMPI_COMM_WORLD_LOCAL_SIZE", "1"
    )  # such as "4(x2),1"
    several = any(int(number) > 1 for number in re.findall(r"(?<!x)\d+", here))
    return not auto or not several or "SLURM_GPUS_PER_TASK" in os.environ


def _find_out(timeout: float) -> tuple[str, int, int]:
    """Ask jax for the address of process 0, the number of processes, and the number of this one."""
    # Private, but jax.distributed.initialize() calls it first; the same in jax 0.10 and 0.11.
    from jax._src.clusters import ClusterEnv

    why = ""
    found: Any = (None,)
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(
            None, None, None, None, None, math.ceil(timeout)
        )[:3]
    except (OSError, RuntimeError) as error:  # such as no metadata server, off a TPU VM
        why = f" ({str(error).splitlines()[0][:200]})"
    if None in found:
        raise UserError(
            f"--coordinator auto found neither a TPU pod nor SLURM nor Open MPI here{why}; give "
            "--coordinator HOST:PORT --processes N --process I instead, or none of them for one "
            "process alone"
        )
    return found


def check_same(facts: Mapping[str, Any]) -> None:
    """Refuse to run where JSON values, such as the configuration, differ between processes. Every
    process calls this first; only the first call asks. It does not use jax, which would wait in
    silence for a process that has stopped. The error, in every process, names processes and fields.
    """
    if "open" not in _peers or "open" in _links:
        return
    try:
        _peers["open"].compare(facts, START_TIMEOUT)
    except BaseException:
        _hang_up()
        raise
    _links["open"] = Link(_peers["open"])
    if not is_first():  # they stop when process 0 does
        _following.enter_context(signals.held())
    from jax.experimental import multihost_utils

    # While all are here: on CPUs, connecting for the first collective has an end of 30 seconds.
    multihost_utils.sync_global_devices("the run")


def leave(status: int) -> None:
    """Tell the other processes that this one ends, and with which exit status. Returns where all is
    well; otherwise it ends the process, because jax's own exit would wait for the others.
    """
    if link := _links.get("open"):
        link.leave(status)
        if status := status or link.end():
            _exit(status)
    else:
        _hang_up()
        if status and several():
            _exit(status)


def _exit(status: int) -> None:
    """End this process at once."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def linked() -> bool:
    """Tell whether the other processes wait for a ``leave``."""
    return "open" in _links


def let_loss_end() -> None:
    """Called after an exception that the loss of another process may have caused: if it has, this
    process ends here with a line that says so.
    """
    if linked():
        time.sleep(_LOSS_SECONDS)


def _hang_up() -> None:
    if link := _links.get("open"):
        return link.leave(0)
    if peers := _peers.pop("open", None):
        peers.close()


def several() -> bool:
    """Tell whether the run was started in several processes."""
    return "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized()


def is_first() -> bool:
    """Tell whether this process prints and writes: the only one, or process 0."""
    import jax

    return not several() or jax.process_index() == 0


def say(line: str) -> None:
    """Print a line, in process 0 alone."""
    if is_first():
        print(harmless(buckets.named(line)), flush=True)


@contextlib.contextmanager
def leading() -> Iterator[Callable[[int, Callable[[], None]], Callable[[], None]]]:
    """Lead the processes that ``follow``, until the block ends. Yields ``together(index, work)``,
    whose result has the others do their ``work[index]`` and does ``work`` with them; an error in
    there arises in every process.
    """

    def together(index: int, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            with _being(alone=False):
                from_first(lambda: index)
                with signals.held("open" in _links):
                    work()

        return run

    with _being(alone=True):
        yield together
    from_first(lambda: _END)


def follow(work: Sequence[Callable[[], None]]) -> None:
    """Do the ``work`` that process 0 calls for, by index, until it ends."""
    while (index := from_first(lambda: _END)) != _END:
        work[index]()


@contextlib.contextmanager
def _being(alone: bool) -> Iterator[None]:
    _alone.append(alone)
    try:
        yield
    finally:
        _alone.pop()


def from_first(work: Callable[[], Any]) -> Any:
    """Do ``work`` in process 0 alone, and return its JSON value in every process. The others wait,
    however long; they stop with process 0. Then all see what that has written, also where the
    workdir is in a bucket. Raises UserError in them if that fails.
    """
    link = _links.get("open")
    if link is None or _alone[-1]:
        return work()
    if not is_first():
        value, changed = _value(link, math.inf)
        buckets.take(changed)
        return value
    with signals.held(False), _being(alone=True):
        signals.check_stop()
        value, changed = work(), buckets.changes()
    link.tell([value, changed])
    return value


def share_files(folder: str | Path) -> None:
    """Let all processes see what process 0 has written into a folder. All call this."""
    if buckets.mirrored(folder):
        from_first(lambda: None)


def _value(link: Link, seconds: float) -> Any:
    """Return the next value of process 0, which stops this one too."""
    try:
        return link.value(seconds)
    except EOFError as end:
        numbers = {EXIT_PREEMPTED: signal.SIGTERM, EXIT_STOPPED: signal.SIGINT}
        if number := numbers.get(end.args[0]):
            signals.note(number)
            raise signals.stopped() from None
        raise UserError("process 0 stopped; its message says why") from None


def part() -> tuple[int, int]:
    """Return the number of this process, and of those that share the work here: itself alone, or
    all of the run. What they share they do with ``apart``.
    """
    import jax

    if "open" not in _links or _alone[-1]:
        return 0, 1
    return jax.process_index(), jax.process_count()


@contextlib.contextmanager
def apart() -> Iterator[None]:
    """Let each process do its ``part`` of some work by itself: a signal stops all of them wherever
    they look for one, and what was not gathered is lost.
    """
    with signals.held(False) if part()[1] > 1 else contextlib.nullcontext():
        yield


def all_gather(data: bytes, seconds: float) -> list[bytes]:
    """Return what each process of ``part`` has given, in every process. All call this, with the
    ``seconds`` that their own part took. Those that come late are waited for as long again and
    START_TIMEOUT more; then one that hangs ends the run.
    """
    if part()[1] == 1:
        return [data]
    from jax.experimental import multihost_utils

    _gather_point(START_TIMEOUT + seconds)
    sizes = multihost_utils.process_allgather(np.int32(len(data)))
    longest = 1 << (int(sizes.max()) - 1).bit_length() if sizes.max() else 1  # few shapes
    padded = np.zeros(longest, np.uint8)
    padded[: len(data)] = np.frombuffer(data, np.uint8)
    rows = multihost_utils.process_allgather(padded)
    return [row[:size].tobytes() for row, size in zip(rows, sizes, strict=True)]


def _gather_point(seconds: float) -> None:
    """Wait until every process is here, where a signal is looked for, unlike in a collective."""
    link = _links["open"]
    with signals.held(False):
        if is_first():
            link.wait_for_all(seconds)
            link.tell(None)
        else:
            link.arrive()
            _value(link, seconds)


def check_stop_together() -> None:
    """Raise the exception of a signal that came to any process, in all of them at this place."""
    if all_stop():
        raise signals.stopped()


def all_stop() -> bool:
    """Tell whether a signal to any process stops all here, where each has saved what it needs to
    resume, or can. Every process calls this at the same places.
    """
    link = _links.get("open")
    return link.all_stop() if link else bool(signals.came())
