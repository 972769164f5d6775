"""The steps of a slice's life: each runs gcloud commands and returns how they ended."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import gcloud
from arguments import cache_setting
from gcloud import Pod
from shell import NO_SUCH_COMMAND, Result, Shell, temporary
from slices import UserError

ROOT = Path(__file__).resolve().parents[2]
# Seconds that a command may take before it is killed.
LOOK, CREATE, DELETE, START, SETUP = 120, 1200, 900, 300, 2400

# States of a slice. "stopping" will end by itself; "lost" still has to be deleted.
ABSENT, WAITING, READY, STOPPING, LOST, UNKNOWN = (
    "absent", "waiting", "ready", "stopping", "lost", "unknown",
)  # fmt: skip
_REQUEST = {
    "CREATING": WAITING, "ACCEPTED": WAITING, "WAITING_FOR_RESOURCES": WAITING,
    "PROVISIONING": WAITING, "ACTIVE": READY, "SUSPENDING": STOPPING, "DELETING": STOPPING,
    "SUSPENDED": LOST, "FAILED": LOST,
}  # fmt: skip
_NODE = {
    "CREATING": WAITING, "STARTING": WAITING, "RESTARTING": WAITING, "REIMAGING": WAITING,
    "REPAIRING": WAITING, "READY": READY, "DELETING": STOPPING, "HIDING": STOPPING,
    "STOPPING": STOPPING, "PREEMPTED": LOST, "TERMINATED": LOST, "STOPPED": LOST, "HIDDEN": LOST,
}  # fmt: skip
# Errors of gcloud that another try cannot fix.
_PERMANENT = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION|NOT_FOUND|"
    "active account|Reauthentication|unrecognized arguments|argument --|must be specified"
)
_STATUS = re.compile(r"^asesjax-run \S+ (none|running|exited (\d+))\s*$", re.M)


def is_absent(result: Result) -> bool:
    """Tell whether a command failed because its target does not exist."""
    return not result.ok and "NOT_FOUND" in result.err


def is_permanent(result: Result) -> bool:
    """Tell whether another try to make a slice would fail as well."""
    return result.status == NO_SUCH_COMMAND or bool(_PERMANENT.search(result.err))


def reason(result: Result) -> str:
    """Return the end of what a failed command printed."""
    return (result.err or result.out or f"status {result.status}").strip()[-600:]


def require(result: Result, what: str) -> Result:
    """Return a result that is ok; raises UserError for others."""
    if not result.ok:
        raise UserError(f"{what} failed: {reason(result)}")
    return result


def slice_state(shell: Shell, pod: Pod) -> tuple[str, str]:
    """Return the state of a slice (one of those above), and the service's own words."""
    if pod.queued:
        request = shell.call(gcloud.describe(pod, queued=True), LOOK, show=False)
        if not request.ok and not is_absent(request):
            return UNKNOWN, reason(request)
        if request.ok:
            state = _REQUEST.get(request.out, WAITING)
            if state != READY:
                return state, f"queued resource {request.out}"
    node = shell.call(gcloud.describe(pod, queued=False), LOOK, show=False)
    if is_absent(node):
        if pod.queued and request.ok:
            return LOST, f"queued resource {request.out}, no machines"
        return ABSENT, "it does not exist"
    if not node.ok:
        return UNKNOWN, reason(node)
    if pod.queued and not request.ok:
        return LOST, f"machines {node.out} without their queued resource"
    return _NODE.get(node.out, WAITING), f"machines {node.out}"


def delete(shell: Shell, pod: Pod) -> Result:
    """Delete a slice. One that does not exist is no failure; the words then say so."""
    results = []
    if pod.queued:
        results.append(shell.call(gcloud.delete(pod, queued=True), DELETE))
    if not pod.queued or is_absent(results[0]):
        results.append(shell.call(gcloud.delete(pod, queued=False), DELETE))
    bad = [result for result in results if not result.ok and not is_absent(result)]
    if bad:
        return bad[0]
    absent = all(map(is_absent, results))
    return Result(0, "", f"there is no slice {pod.name}" if absent else "")


def with_project(shell: Shell, pod: Pod) -> Pod:
    """Name gcloud's own project in a slice that has none: switched later, it would hide the slice.

    Raises:
      UserError: gcloud has none either.
    """
    if pod.project or shell.dry_run:
        return pod
    found = require(shell.call(gcloud.default_project(), LOOK, show=False), "gcloud config")
    if found.out in ("", "(unset)"):
        raise UserError("gcloud has no project set; give --project PROJECT")
    return dataclasses.replace(pod, project=found.out)


def check_bucket(shell: Shell, pod: Pod, bucket: str) -> None:
    """Check that the bucket of a workdir exists, before anything is paid for.

    Raises:
      UserError: it does not, or gcloud may not see it.
    """
    found = shell.call(gcloud.describe_bucket(pod, bucket), LOOK)
    if not found.ok:
        raise UserError(
            f"bucket gs://{bucket} of --workdir cannot be used: {reason(found)}; if there is none, "
            "make it in the slice's region, as launch/README.md shows"
        )


def pack(shell: Shell) -> bytes:
    """Pack the commit for the workers, once: a slice that is made later gets the same. It is kept
    in memory, for a temporary file may be cleared away during a run of days.

    Raises:
      UserError: no commit, or changes that are not committed.
    """
    git = ["git", "-C", str(ROOT)]
    if not shell.dry_run:
        commit = shell.call([*git, "rev-parse", "HEAD"], LOOK, show=False)
        if not commit.ok:
            raise UserError(f"{ROOT} is no git checkout with a commit, which is what workers get")
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        if require(shell.call(changes, LOOK, show=False), "git").out:
            raise UserError(
                f"{ROOT} has changes that are not committed, and workers get the commit: commit "
                "or stash them (git stash)"
            )
        shell.say(f"workers get commit {commit.out[:12]}")
    with temporary(TemporaryDirectory) as folder:
        path = Path(folder) / gcloud.BUNDLE
        bundle = [*git, "bundle", "create", "--quiet", str(path), "HEAD"]
        require(shell.call(bundle, LOOK), "packing")
        return b"" if shell.dry_run else path.read_bytes()


def setup(shell: Shell, pod: Pod, bundle: bytes) -> Result:
    """Install code and environment on all workers; quick where that is done already."""
    with temporary(TemporaryDirectory) as folder:
        path = Path(folder) / gcloud.BUNDLE
        path.write_bytes(bundle)
        result = shell.call(gcloud.copy(pod, str(path), gcloud.BUNDLE), START)
    if result.ok:
        result = shell.call(gcloud.on_workers(pod, gcloud.unpack()), START)
    if result.ok:
        command = gcloud.on_workers(pod, gcloud.worker("setup"))
        result = shell.call(command, SETUP, stream=not shell.dry_run)
    return result


def start(shell: Shell, pod: Pod, run: str, arguments: Sequence[str]) -> Result:
    """Start a run on all workers; any earlier run there is stopped."""
    command = cache_setting() + gcloud.worker("start", run, *arguments)
    return shell.call(gcloud.on_workers(pod, command), START)


def stop(shell: Shell, pod: Pod) -> Result:
    """Ask the run on all workers to save and exit, and wait for that."""
    return shell.call(gcloud.on_workers(pod, gcloud.worker("stop")), START)


def run_status(shell: Shell, pod: Pod, run: str) -> tuple[str, int]:
    """Ask the first worker, which is process 0, for the status of a run.

    Returns:
      "running", "exited" with its status, "none", or "unknown" where the worker does not answer.
    """
    # Before the code is copied there is no run either.
    command = f"[ ! -d {gcloud.CODE}/launch ] && echo asesjax-run - none || "
    command += gcloud.worker("status", run)
    result = shell.call(gcloud.on_workers(pod, command, "0"), LOOK, show=False)
    found = _STATUS.search(result.out)
    if not result.ok or found is None:
        return "unknown", 0
    return found[1].split()[0], int(found[2] or 0)


def log_tail(shell: Shell, pod: Pod, lines: int = 60) -> str:
    """Return the end of process 0's output."""
    command = gcloud.worker("log", str(lines))
    return shell.call(gcloud.on_workers(pod, command, "0"), LOOK, show=False).out
