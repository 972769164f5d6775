"""A cloud in a JSON file: a fake ``gcloud`` that checks its arguments and plays scripted states.

As a program (``python fake_cloud.py ARGS``, put on PATH as ``gcloud``) it keeps its world in the
file ``$FAKE_CLOUD``.

What a world may script; each entry is used once, then the default:

  creates   result of each request: ok, quota, capacity, denied, hang-made, hang-lost, or hang-late
            (made only after a describe that found nothing)
  lives     for each slice, its states in the order in which they are seen; the last one stays
  setups    result of each setup: ok, fail, hang
  runs      for each started run, its statuses in order; the last one stays
  looks     result of each describe: ok, fail, hang
  deletes   result of each delete: ok, fail, hang, slow
  signal    [n, number]: sends a signal to the caller during call n
  switch    n: from call n on, gcloud's own project is another one
"""

import functools
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

from gcloud_reference import HOSTS, Usage, check_kind, parse


def new_world(**script):
    """Return a cloud with nothing in it."""
    world = {
        "creates": [], "lives": [], "setups": [], "runs": [], "looks": [], "deletes": [],
        "signal": None, "switch": None, "project": "mine", "bucket": "my-bucket", "late": {},
        "seen": 0, "calls": [], "bad": [],
        "slices": {}, "made": 0, "started": 0, "homes": None, **script,
    }  # fmt: skip
    return json.loads(json.dumps(world))


def next_of(script, default="ok"):
    return script.pop(0) if script else default


class Hang(Exception):
    """The command does not return."""


def gcloud(argv, world):
    """Run one command; returns its exit status, standard output and standard error."""
    if argv[0] != "config":  # calls of the cloud
        world["calls"].append(argv)
    try:
        name, rest, flags = parse(argv)
        if len(world["calls"]) == world["switch"]:
            world["project"] = "other"
        if " describe" in name or " delete" in name:
            one = world["slices"].get(rest[0])
            if one and one.get("project", "mine") != flags.get("project", world["project"]):
                return error("NOT_FOUND", f"{rest[0]} was not found")
        if flags.get("accelerator-type"):
            check_kind(flags)
        return globals()["do_" + re.sub(r"^compute tpus |-", "", name).replace(" ", "_")](
            world, rest, flags
        )
    except Usage as usage:
        world["bad"].append([str(usage), argv])
        return 2, "", f"ERROR: (gcloud) {usage}"


def error(code, text):
    return 1, "", f"ERROR: (gcloud) {code}: {text}"


def make(world, name, flags, queued):
    outcome = next_of(world["creates"])
    if name in world["slices"]:
        return error("ALREADY_EXISTS", f"{name} already exists")
    if outcome in ("ok", "hang-made", "hang-late"):
        default = ["ACTIVE"] if queued else ["READY"]
        world["late" if outcome == "hang-late" else "slices"][name] = {
            "project": flags.get("project", world["project"]), "queued": queued,
            "life": next_of(world["lives"], None) or default,
            "kind": flags["accelerator-type"], "run": None,
        }  # fmt: skip
        world["made"] += 1
    if outcome.startswith("hang"):
        raise Hang
    return {
        "ok": (0, "", ""),
        "quota": error("RESOURCE_EXHAUSTED", "Quota limit has been exceeded. Limit: 0"),
        "capacity": error("UNAVAILABLE", "There is no more capacity in the zone"),
        "denied": error("PERMISSION_DENIED", "tpu.nodes.create denied"),
    }[outcome]


def do_tpuvm_create(world, rest, flags):
    if "accelerator-type" not in flags:
        raise Usage("would make a v2-8")
    return make(world, rest[0], flags, queued=False)


def do_queuedresources_create(world, rest, flags):
    return make(world, rest[0], flags, queued=True)


def state_of(world, name, step):
    """Return the state of a slice; ``step`` advances it."""
    life = world["slices"][name]["life"]
    state = life[0]
    if step and len(life) > 1:
        life.pop(0)
        if life[0] == "nothing":
            del world["slices"][name]
    return state


def failed_look(world):
    """Return the scripted failure of a describe, if any."""
    world["seen"] += 1
    if world["seen"] % 2 == 0:
        world["slices"].update(world["late"])
        world["late"] = {}
    outcome = next_of(world["looks"])
    if outcome == "hang":
        raise Hang
    return error("UNAVAILABLE", "The service is currently unavailable") if outcome != "ok" else None


def do_queuedresources_describe(world, rest, flags):
    if flags["format"] != "value(state.state)":
        raise Usage("format of another resource")
    if failure := failed_look(world):
        return failure
    one = world["slices"].get(rest[0])
    state = state_of(world, rest[0], step=True) if one and one["queued"] else "orphan"
    if state == "orphan":
        return error("NOT_FOUND", f"queued resource {rest[0]} was not found")
    return 0, state.partition("/")[0], ""


def node_state(world, name, step):
    """Return the state of machines, None without machines."""
    one = world["slices"].get(name)
    if one is None:
        return None
    state = state_of(world, name, step and not one["queued"])
    if not one["queued"]:
        return state
    request, _, node = state.partition("/")
    if request == "orphan":
        return "READY"
    return (node or "READY") if request == "ACTIVE" and node != "none" else None


def do_tpuvm_describe(world, rest, flags):
    if flags["format"] != "value(state)":
        raise Usage("format of another resource")
    if failure := failed_look(world):
        return failure
    state = node_state(world, rest[0], step=True)
    if state is None:
        return error("NOT_FOUND", f"node {rest[0]} was not found")
    return 0, state, ""


def remove(world, name):
    outcome = next_of(world["deletes"])
    if outcome == "fail":
        return error("INTERNAL", "an internal error occurred")
    if outcome == "slow":
        world["slices"][name]["life"] = ["DELETING", "DELETING", "nothing"]
    else:
        del world["slices"][name]
    if outcome == "hang":
        raise Hang
    return 0, "", ""


def do_queuedresources_delete(world, rest, flags):
    one = world["slices"].get(rest[0])
    if one is None or not one["queued"] or one["life"][0] == "orphan":
        return error("NOT_FOUND", f"queued resource {rest[0]} was not found")
    if "force" not in flags and one["life"][0] not in ("SUSPENDED", "FAILED", "ACCEPTED"):
        return error("FAILED_PRECONDITION", "has nodes; use --force")
    return remove(world, rest[0])


def do_tpuvm_delete(world, rest, flags):
    if node_state(world, rest[0], step=False) is None:
        return error("NOT_FOUND", f"node {rest[0]} was not found")
    return remove(world, rest[0])


def do_tpuvm_list(world, rest, flags):
    return 0, "\n".join(n for n in world["slices"] if node_state(world, n, False)), ""


def do_queuedresources_list(world, rest, flags):
    return 0, "\n".join(n for n, one in world["slices"].items() if one["queued"]), ""


def do_config_getvalue(world, rest, flags):
    return 0, world["project"] if rest == ["project"] else "", ""


def do_storage_buckets_describe(world, rest, flags):
    if not rest[0].startswith("gs://"):
        raise Usage(f"what is {rest[0]}?")
    if rest[0] != f"gs://{world['bucket']}":
        return 1, "", f"ERROR: (gcloud.storage.buckets.describe) {rest[0]} not found: 404."
    return 0, world["bucket"], ""


def do_tpuvm_scp(world, rest, flags):
    name, _, target = rest[1].partition(":")
    if flags.get("worker") != "all" or not Path(rest[0]).is_file() or not target:
        raise Usage(f"copies {rest}")
    if node_state(world, name, step=False) != "READY":
        return 1, "", "ERROR: (gcloud) cannot connect"
    for home in homes(world, name):
        (home / target).write_bytes(Path(rest[0]).read_bytes())
    return 0, "", ""


def do_tpuvm_ssh(world, rest, flags):
    """Run a line of shell on workers, really where the world has home folders."""
    if not flags.get("command") or flags.get("worker", "0") not in ("all", "0", "1"):
        raise Usage("would open a terminal")
    if node_state(world, rest[0], step=False) != "READY":
        return 255, "", "ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255]."
    check_syntax(flags["command"])
    one, command = world["slices"][rest[0]], shlex.split(flags["command"])
    if world["homes"]:
        return run_there(homes(world, rest[0]), flags)
    if "setup" in command:
        outcome = next_of(world["setups"])
        if outcome == "hang":
            raise Hang
        return (0, "ready", "") if outcome == "ok" else (1, "", "no space left on device")
    if "start" in command:
        one["run"] = [command[command.index("start") + 1], next_of(world["runs"], ["exited 0"])]
        world["started"] += 1
        return 0, "asesjax-run w-0 running", ""
    if "status" in command:
        run, says = one["run"] or (None, ["none"])
        says = says if run == command[-1] else ["none"]
        state = says.pop(0) if len(says) > 1 else says[0]
        if state == "broken":
            return 255, "", "ERROR: (gcloud) [/usr/bin/ssh] exited with return code [255]."
        return 0, f"asesjax-run w-0 {state}", ""
    return 0, "the end of the output", ""


@functools.cache
def check_syntax(command):
    """Let bash parse a line without running it."""
    subprocess.run(["bash", "-n", "-c", command], check=True)


def homes(world, name):
    """Return the home folder of each worker, where commands really run."""
    if not world["homes"]:
        return []
    base = Path(world["homes"]) / f"{name}-{world['made']}"
    folders = [base / str(i) for i in range(HOSTS[world["slices"][name]["kind"]])]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def run_there(folders, flags):
    if flags.get("worker", "0") != "all":
        folders = [folders[int(flags.get("worker", "0"))]]
    done = [
        subprocess.run(["bash", "-c", flags["command"]], cwd=folder, capture_output=True,
                       text=True, env={**os.environ, "HOME": str(folder)}, stdin=subprocess.DEVNULL)
        for folder in folders
    ]  # fmt: skip
    return (max(one.returncode for one in done), "".join(one.stdout for one in done),
            "".join(one.stderr for one in done))  # fmt: skip


def copy_object(argv):
    """Copy a worker's file into the bucket of its home folder; that may come at any moment, so it
    leaves the world alone.
    """
    _, (source, target), _ = parse(argv)
    copied = Path(os.environ["HOME"], "bucket", target.removeprefix("gs://my-bucket/"))
    copied.parent.mkdir(parents=True, exist_ok=True)
    copied.write_bytes(Path(source).read_bytes())
    return 0


def main(argv):
    if argv[:2] == ["storage", "cp"]:
        return copy_object(argv)
    path = Path(os.environ["FAKE_CLOUD"])
    world = json.loads(path.read_text())
    hangs = False
    try:
        status, out, err = gcloud(argv, world)
    except Hang:
        hangs, status, out, err = True, 0, "", ""
    # Replaced atomically, because the caller may kill this process.
    path.with_suffix(".new").write_text(json.dumps(world))
    os.replace(path.with_suffix(".new"), path)
    if world["signal"] and world["signal"][0] == len(world["calls"]):
        os.kill(os.getppid(), world["signal"][1])
        time.sleep(0.3)  # so that it arrives while this runs
    if hangs:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        path.with_suffix(".hangs").touch()
        time.sleep(600)
    print(out)
    print(err, file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
