"""The gcloud commands of these scripts, as lists of arguments; nothing here runs anything."""

import dataclasses
import re
import shlex

from slices import SliceKind, UserError

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
CODE = "asesjax"  # folder of the code on every worker, below the home folder
BUNDLE = "asesjax.bundle"


@dataclasses.dataclass(frozen=True)
class Pod:
    """A slice by name: what all commands need to find it."""

    name: str  # of the slice, and of its queued resource where it has one
    zone: str
    project: str = ""  # gcloud's own default when empty
    queued: bool = True  # requested through a queue, not at once

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise UserError(
                f"--name {self.name!r}: expected lower-case letters, digits and dashes, beginning "
                "with a letter, 63 at most"
            )

    @property
    def where(self) -> list[str]:
        """The flags that every command takes."""
        return [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else []),
                "--quiet"]  # fmt: skip


def create(pod: Pod, kind: SliceKind, spot: bool = False, reserved: bool = False) -> list[str]:
    """Request a slice, in the queue or at once."""
    accelerator = f"--accelerator-type={kind.accelerator_type}"
    version = [f"--version={kind.runtime}"]
    if pod.queued:
        version = [f"--node-id={pod.name}", f"--runtime-version={kind.runtime}"]
    price = ["--spot"] * spot + ["--reserved"] * reserved
    return [*_tpus("create", pod.queued), pod.name, accelerator, *version, *price, *pod.where]


def describe(pod: Pod, queued: bool) -> list[str]:
    """Print the state of the queued resource, or of the machines."""
    field = "state.state" if queued else "state"
    return [*_tpus("describe", queued), pod.name, f"--format=value({field})", *pod.where]


def delete(pod: Pod, queued: bool) -> list[str]:
    """Delete the queued resource with its machines, or machines alone."""
    return [*_tpus("delete", queued), pod.name, *["--force"] * queued, *pod.where]


def list_zone(pod: Pod, queued: bool) -> list[str]:
    """List every queued resource of the zone, or every slice."""
    return [*_tpus("list", queued), *pod.where]


def default_project() -> list[str]:
    """Print the project that gcloud takes where a command names none."""
    return ["gcloud", "config", "get-value", "project", "--quiet"]


def describe_bucket(pod: Pod, bucket: str) -> list[str]:
    """Print the name of a bucket that exists."""
    return ["gcloud", "storage", "buckets", "describe", f"gs://{bucket}", "--format=value(name)",
            *pod.where[1:]]  # fmt: skip


def copy(pod: Pod, path: str, target: str) -> list[str]:
    """Copy a file into the home folder of every worker."""
    return [*_tpus("scp"), path, f"{pod.name}:{target}", "--worker=all", *pod.where]


def on_workers(pod: Pod, command: str, worker: str = "all") -> list[str]:
    """Run a line of shell on one worker, or on all in parallel."""
    return [*_tpus("ssh"), pod.name, f"--worker={worker}", f"--command={command}", *pod.where]


def unpack() -> str:
    """The line of shell that checks out the copied commit in the folder of the code."""
    return (
        f"git init --quiet {CODE} && git -C {CODE} fetch --quiet ../{BUNDLE} HEAD && "
        f"git -C {CODE} checkout --quiet --force --detach FETCH_HEAD"
    )


def worker(verb: str, *arguments: str) -> str:
    """The line of shell that calls launch/tpu/worker.sh, which is part of the code there."""
    return shlex.join(["bash", f"{CODE}/launch/tpu/worker.sh", verb, *arguments])


def _tpus(verb: str, queued: bool = False) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources" if queued else "tpu-vm", verb]
