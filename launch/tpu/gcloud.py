"""The gcloud commands of these scripts, as lists of arguments; nothing here runs anything."""

import dataclasses
import re
import shlex

from slices import Mistake, Slice

_NAME = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_BUCKET = re.compile(r"[a-z0-9][-_.a-z0-9]{1,61}[a-z0-9]")
CODE = "asesjax"  # folder of the code on every worker, below the home folder
BUNDLE = "asesjax.bundle"


@dataclasses.dataclass(frozen=True)
class Pod:
    """A slice by name: what all commands need to find it.

    Attributes:
      name: of the slice, and of its queued resource where there is one.
      zone: of Google Cloud.
      project: of Google Cloud; gcloud's own default when empty.
      queued: asked for through a queue, not at once.
    """

    name: str
    zone: str
    project: str = ""
    queued: bool = True

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Mistake(
                f"--name {self.name!r}: expected lower-case letters, digits and dashes, beginning "
                "with a letter, 63 at most"
            )

    @property
    def where(self) -> list[str]:
        """The flags that every command takes."""
        return [f"--zone={self.zone}", *([f"--project={self.project}"] if self.project else []),
                "--quiet"]  # fmt: skip


def create(pod: Pod, of: Slice, spot: bool = False, reserved: bool = False) -> list[str]:
    """Ask for a slice; a queued one may take its time.

    Args:
      pod: its name.
      of: its kind.
      spot: cheaper, and may be taken away at any time.
      reserved: out of a reservation of the project.
    """
    if spot and reserved:
        raise Mistake("--spot and --reserved exclude each other")
    price = ["--spot"] * spot + ["--reserved"] * reserved
    kind = f"--accelerator-type={of.accelerator_type}"
    if pod.queued:
        return [*_queued("create"), pod.name, f"--node-id={pod.name}", kind,
                f"--runtime-version={of.runtime}", *price, *pod.where]  # fmt: skip
    return [*_node("create"), pod.name, kind, f"--version={of.runtime}", *price, *pod.where]


def describe_request(pod: Pod) -> list[str]:
    """Print the state of the queued resource."""
    return [*_queued("describe"), pod.name, "--format=value(state.state)", *pod.where]


def describe_node(pod: Pod) -> list[str]:
    """Print the state of the machines."""
    return [*_node("describe"), pod.name, "--format=value(state)", *pod.where]


def delete_request(pod: Pod) -> list[str]:
    """Delete the queued resource, and its machines first."""
    return [*_queued("delete"), pod.name, "--force", *pod.where]


def delete_node(pod: Pod) -> list[str]:
    """Delete the machines."""
    return [*_node("delete"), pod.name, *pod.where]


def list_nodes(pod: Pod) -> list[str]:
    """List every slice of the zone."""
    return [*_node("list"), *pod.where]


def list_requests(pod: Pod) -> list[str]:
    """List every queued resource of the zone."""
    return [*_queued("list"), *pod.where]


def describe_bucket(pod: Pod, bucket: str) -> list[str]:
    """Print True where folders of a bucket can be renamed at once."""
    if not _BUCKET.fullmatch(bucket):
        raise Mistake(f"--bucket {bucket!r}: expected the name of a bucket, without gs://")
    return ["gcloud", "storage", "buckets", "describe", f"gs://{bucket}",
            "--format=value(hierarchical_namespace.enabled)", *pod.where[1:]]  # fmt: skip


def copy(pod: Pod, path: str, target: str) -> list[str]:
    """Copy a file into the home folder of every worker."""
    return [*_node("scp"), path, f"{pod.name}:{target}", "--worker=all", *pod.where]


def on_workers(pod: Pod, command: str, worker: str = "all") -> list[str]:
    """Run a line of shell on one worker, or on all at once."""
    return [*_node("ssh"), pod.name, f"--worker={worker}", f"--command={command}", *pod.where]


def unpack() -> str:
    """Bring the folder of the code to the commit that was copied."""
    return (
        f"git init --quiet {CODE} && git -C {CODE} fetch --quiet ../{BUNDLE} HEAD && "
        f"git -C {CODE} checkout --quiet --force --detach FETCH_HEAD"
    )


def worker(verb: str, *arguments: str) -> str:
    """Call launch/tpu/worker.sh, which is part of the code there."""
    return shlex.join(["bash", f"{CODE}/launch/tpu/worker.sh", verb, *arguments])


def _node(verb: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "tpu-vm", verb]


def _queued(verb: str) -> list[str]:
    return ["gcloud", "compute", "tpus", "queued-resources", verb]
