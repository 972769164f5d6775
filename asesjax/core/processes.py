"""Several processes of one run: how they start, and how they stay together.

Every process works with the devices of its machine, and all see the same workdir. Process 0 leads:
it alone prints and writes, and does by itself what needs no other's devices. The others follow it
into the work that takes all devices, and wait in between.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence

from asesjax.core.errors import UserError

_END, _FAILED = -1, -2


def start(coordinator: str, processes: int | None = None, process: int | None = None) -> None:
    """Join the processes of a run; before anything else asks jax for its devices.

    Args:
      coordinator: ``host:port`` of process 0, the same for all; ``"auto"`` on TPU pods, SLURM and
        Open MPI, where jax finds it and the two numbers itself; ``""`` for a process alone.
      processes: how many there are.
      process: number of this one, from 0.

    Raises:
      UserError: arguments that do not fit together, or the others did not come.
    """
    numbers = processes is not None, process is not None
    if not coordinator and not any(numbers):
        return
    if coordinator == "auto" and any(numbers):
        raise UserError("--coordinator auto finds --processes and --process itself; leave them out")
    if coordinator != "auto":
        host, _, port = coordinator.rpartition(":")
        if not (host and port.isdigit() and all(numbers) and 0 <= process < processes):
            raise UserError(
                f"got --coordinator {coordinator!r} --processes {processes} --process {process}; "
                "expected the HOST:PORT of process 0, how many processes there are, and the number "
                "of this one, from 0; or --coordinator auto on a TPU pod or under SLURM"
            )
    import jax

    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, process)
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"the processes of --coordinator {coordinator} did not find each other: "
            f"{str(error).splitlines()[0]}"
        ) from error


def several() -> bool:
    """Tell whether the run was started in several processes."""
    import jax

    return jax.distributed.is_initialized()


def is_first() -> bool:
    """Tell whether this process prints and writes: it is alone, or process 0."""
    import jax

    return not several() or jax.process_index() == 0


def say(line: str) -> None:
    """Print a line, in process 0 alone."""
    if is_first():
        print(line, flush=True)


@contextlib.contextmanager
def leading() -> Iterator[Callable[[int, Callable[[], None]], Callable[[], None]]]:
    """Lead the processes that ``follow``; they are let go at the end, or when an error ends it.

    Yields:
      ``together(index, work)``: a function that calls the others to ``work[index]`` and does
      ``work`` with them. An error in there is everyone's own.
    """
    inside = False

    def together(index: int, work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            nonlocal inside
            inside = True
            _tell(index)
            work()
            inside = False

        return run

    try:
        yield together
    except BaseException:
        if not inside:
            _tell(_FAILED)
        raise
    _tell(_END)


def follow(work: Sequence[Callable[[], None]]) -> None:
    """Do what process 0 calls to, until it lets go.

    Args:
      work: what its indices mean, the same in every process.

    Raises:
      UserError: process 0 stopped with an error.
    """
    while (index := _tell(0)) >= 0:
        work[index]()
    if index == _FAILED:
        raise UserError("process 0 stopped; its message says why")


def _tell(index: int) -> int:
    """Return the index that process 0 gives, in every process; waits for all."""
    if not several():
        return index
    import numpy as np
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(index)))
