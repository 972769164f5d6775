"""What is done with a slice, step by step: each runs gcloud commands and says how they ended."""

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import gcloud
from gcloud import Pod
from shell import NO_SUCH_COMMAND, Result, Shell
from slices import Mistake, Slice

ROOT = Path(__file__).resolve().parents[2]
# Seconds that a command may take before it counts as hanging.
LOOK, CREATE, DELETE, START, SETUP = 120, 1200, 900, 300, 2400

# What a slice is for these scripts. "leaving" is on its way out, "gone" still has to be deleted.
ABSENT, WAITING, READY, LEAVING, GONE, UNKNOWN = (
    "absent", "waiting", "ready", "leaving", "gone", "unknown",
)  # fmt: skip
_REQUEST = {
    "CREATING": WAITING, "ACCEPTED": WAITING, "WAITING_FOR_RESOURCES": WAITING,
    "PROVISIONING": WAITING, "ACTIVE": READY, "SUSPENDING": LEAVING, "DELETING": LEAVING,
    "SUSPENDED": GONE, "FAILED": GONE,
}  # fmt: skip
_NODE = {
    "CREATING": WAITING, "STARTING": WAITING, "RESTARTING": WAITING, "REIMAGING": WAITING,
    "REPAIRING": WAITING, "READY": READY, "DELETING": LEAVING, "HIDING": LEAVING,
    "STOPPING": LEAVING, "PREEMPTED": GONE, "TERMINATED": GONE, "STOPPED": GONE, "HIDDEN": GONE,
}  # fmt: skip
# Errors of gcloud that trying again does not mend.
_MISTAKES = re.compile(
    "PERMISSION_DENIED|UNAUTHENTICATED|INVALID_ARGUMENT|FAILED_PRECONDITION|NOT_FOUND|"
    "active account|Reauthentication|unrecognized arguments|argument --|must be specified"
)
_STATUS = re.compile(r"^asesjax-run \S+ (none|running|exited (\d+))\s*$", re.M)


def is_absent(result: Result) -> bool:
    """Tell whether a command failed because the thing is not there."""
    return not result.ok and "NOT_FOUND" in result.err


def is_mistake(result: Result) -> bool:
    """Tell whether making a slice failed for a reason that stays."""
    return result.status == NO_SUCH_COMMAND or bool(_MISTAKES.search(result.err))


def why(result: Result) -> str:
    """Return the end of what a failed command said."""
    return (result.err or result.out or f"status {result.status}").strip()[-600:]


def expect(result: Result, what: str) -> Result:
    """Return a result that has to be good.

    Raises:
      Mistake: it is not.
    """
    if not result.ok:
        raise Mistake(f"{what} failed: {why(result)}")
    return result


def look(shell: Shell, pod: Pod) -> tuple[str, str]:
    """Ask for the state of a slice.

    Returns:
      One of the states above, and the service's own words.
    """
    if pod.queued:
        request = shell.call(gcloud.describe_request(pod), LOOK, show=False)
        if not request.ok and not is_absent(request):
            return UNKNOWN, why(request)
        if request.ok:
            state = _REQUEST.get(request.out, WAITING)
            if state != READY:
                return state, f"queued resource {request.out}"
    node = shell.call(gcloud.describe_node(pod), LOOK, show=False)
    if is_absent(node):
        if pod.queued and request.ok:
            return GONE, f"queued resource {request.out}, no machines"
        return ABSENT, "there is none"
    if not node.ok:
        return UNKNOWN, why(node)
    if pod.queued and not request.ok:
        return GONE, f"machines {node.out} without their queued resource"
    return _NODE.get(node.out, WAITING), f"machines {node.out}"


def delete(shell: Shell, pod: Pod) -> Result:
    """Delete a slice, asked for in either way; one that is not there is no failure."""
    results = []
    if pod.queued:
        results.append(shell.call(gcloud.delete_request(pod), DELETE))
    if not pod.queued or is_absent(results[0]):
        results.append(shell.call(gcloud.delete_node(pod), DELETE))
    bad = [result for result in results if not result.ok and not is_absent(result)]
    return bad[0] if bad else Result(0, "", "")


def check_bucket(shell: Shell, pod: Pod, bucket: str) -> None:
    """Make sure that a bucket can hold a workdir, before anything is paid for.

    Raises:
      Mistake: it is not there, or renames folders file by file.
    """
    found = expect(shell.call(gcloud.describe_bucket(pod, bucket), LOOK), f"bucket gs://{bucket}")
    if found.out != "True" and not shell.dry_run:
        raise Mistake(
            f"bucket gs://{bucket} has no hierarchical namespace, so a checkpoint could be left "
            "half renamed; make one in the slice's region: gcloud storage buckets create "
            "gs://NAME --location=REGION --uniform-bucket-level-access "
            "--enable-hierarchical-namespace"
        )


def check_arguments(arguments: Sequence[str], bucket: str) -> None:
    """Check what ``asesjax run`` is to be given.

    Raises:
      Mistake: no workdir in the bucket, or what these scripts add themselves.
    """
    text = list(arguments)
    workdirs = [text[i + 1] for i, a in enumerate(text[:-1]) if a == "--workdir"]
    workdirs += [a.partition("=")[2] for a in text if a.startswith("--workdir=")]
    if len(workdirs) != 1 or not re.match(rf"gs://{re.escape(bucket)}/.", workdirs[0]):
        raise Mistake(
            f"after -- there has to be --workdir gs://{bucket}/FOLDER, which outlives the slice; "
            f"got {shlex.join(text) or 'nothing'}"
        )
    for argument in text:
        if argument.split("=")[0] in ("--coordinator", "--processes", "--process"):
            raise Mistake(f"{argument}: these scripts add --coordinator auto themselves")
        for other in re.findall(r"gs://([^/]+)", argument):
            if other != bucket:
                raise Mistake(f"{argument}: only gs://{bucket} is mounted on the workers")


def pack(shell: Shell, folder: str) -> str:
    """Pack the commit that workers get, once: a slice that is made later gets the same.

    Returns:
      Path of the file.

    Raises:
      Mistake: no commit, or changes that are in none.
    """
    git = ["git", "-C", str(ROOT)]
    if not shell.dry_run:
        commit = shell.call([*git, "rev-parse", "HEAD"], LOOK, show=False)
        if not commit.ok:
            raise Mistake(f"{ROOT} is no git checkout with a commit, which is what workers get")
        changes = [*git, "status", "--porcelain", "--untracked-files=no"]
        if expect(shell.call(changes, LOOK, show=False), "git").out:
            raise Mistake(
                f"{ROOT} has changes that are not committed, and workers get the commit: commit "
                "them, or put them aside (git stash)"
            )
        shell.say(f"workers get commit {commit.out[:12]}")
    path = str(Path(folder) / gcloud.BUNDLE)
    expect(shell.call([*git, "bundle", "create", "--quiet", path, "HEAD"], LOOK), "packing")
    return path


def setup(shell: Shell, pod: Pod, bundle: str, bucket: str) -> Result:
    """Bring code, environment and bucket to all workers; quick where they are there already."""
    result = shell.call(gcloud.copy(pod, bundle, gcloud.BUNDLE), START)
    if result.ok:
        result = shell.call(gcloud.on_workers(pod, gcloud.unpack()), START)
    if result.ok:
        command = gcloud.worker("setup", bucket)
        result = shell.call(gcloud.on_workers(pod, command), SETUP, stream=not shell.dry_run)
    return result


def start(shell: Shell, pod: Pod, run: str, bucket: str, arguments: Sequence[str]) -> Result:
    """Start a run on all workers; whatever ran there before is stopped."""
    command = gcloud.worker("start", run, bucket, *arguments)
    return shell.call(gcloud.on_workers(pod, command), START)


def stop(shell: Shell, pod: Pod) -> Result:
    """Ask the run on all workers to save and end, and wait for that."""
    return shell.call(gcloud.on_workers(pod, gcloud.worker("stop")), START)


def run_status(shell: Shell, pod: Pod, run: str) -> tuple[str, int]:
    """Ask the first worker, which is process 0, how a run is.

    Returns:
      "running", "exited" with its status, "none", or "unknown" where it does not answer.
    """
    # Where the code has not come yet, there is no run either.
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


def kind(of: Slice) -> str:
    """Describe a slice in a few words."""
    return f"{of.topology} ({of.accelerator_type}, {of.chips} chips on {of.hosts} machines)"
