"""What gcloud accepts: flags of its commands, accelerator types and their runtime versions.

From Google's reference pages and gcloud's own help, not from the scripts under test.
"""

SIZES = {
    "v4": (8, 16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 4096),
    "v5litepod": (1, 4, 8, 16, 32, 64, 128, 256),
    "v5p": (8, 16, 32, 64, 128, 256, 512, 1024, 1536, 2048, 4096, 8192, 12288),
    "v6e": (1, 4, 8, 16, 32, 64, 128, 256),
}
RUNTIMES = {
    "v4": "tpu-ubuntu2204-base", "v5litepod": "v2-alpha-tpuv5-lite", "v5p": "v2-alpha-tpuv5",
    "v6e": "v2-alpha-tpuv6e",
}  # fmt: skip
HOSTS = {"v5litepod-16": 4, "v5litepod-8": 1, "v4-16": 2, "v6e-16": 4}
WIDE = {"project": str, "quiet": None, "format": str}
ZONE = {"zone": str}
# For each command: number of positional arguments, required flags, other flags, exclusive flags.
COMMANDS = {
    "compute tpus tpu-vm create": (
        1, {**ZONE, "version": str},
        {"accelerator-type": str, "spot": None, "reserved": None, "preemptible": None,
         "async": None, "network": str, "labels": str, "metadata": str},
        [("spot", "reserved", "preemptible")],
    ),
    "compute tpus queued-resources create": (
        1, {**ZONE, "runtime-version": str, "accelerator-type": str, "node-id": str},
        {"spot": None, "reserved": None, "guaranteed": None, "async": None,
         "valid-until-duration": str},
        [("spot", "reserved", "guaranteed")],
    ),
    "compute tpus tpu-vm describe": (1, ZONE, {}, []),
    "compute tpus queued-resources describe": (1, ZONE, {}, []),
    "compute tpus tpu-vm delete": (1, ZONE, {"async": None}, []),
    "compute tpus queued-resources delete": (1, ZONE, {"async": None, "force": None}, []),
    "compute tpus tpu-vm list": (0, ZONE, {}, []),
    "compute tpus queued-resources list": (0, ZONE, {}, []),
    "compute tpus tpu-vm ssh": (1, ZONE, {"worker": str, "command": str}, []),
    "compute tpus tpu-vm scp": (2, ZONE, {"worker": str, "recurse": None}, []),
    "config get-value": (1, {}, {}, []),
    "storage buckets describe": (1, {}, {}, []),
    "storage cp": (2, {}, {"recursive": None, "no-clobber": None}, []),
}  # fmt: skip


class Usage(Exception):
    """Arguments that the real gcloud would refuse."""


def parse(argv):
    """Return the command, its positional arguments and its flags."""
    words = [word for word in argv if not word.startswith("--")]
    name = next((n for n in COMMANDS if words[: len(n.split())] == n.split()), None)
    if name is None:
        raise Usage(f"Invalid choice: {' '.join(words[:4])!r}")
    count, required, others, exclusive = COMMANDS[name]
    flags = {}
    known = {**WIDE, **required, **others}
    for word in argv:
        if word.startswith("--"):
            flag, equals, value = word[2:].partition("=")
            if flag not in known:
                raise Usage(f"unrecognized arguments: {word}")
            if flag in flags:
                raise Usage(f"{word} is given twice")
            if bool(equals) != (known[flag] is str) or equals and not value:
                raise Usage(f"argument {word}: needs a value, or takes none")
            flags[flag] = value
    if missing := required.keys() - flags.keys():
        raise Usage(f"argument --{min(missing)}: Must be specified.")
    for group in exclusive:
        if len(given := [flag for flag in group if flag in flags]) > 1:
            raise Usage(f"At most one of {given} can be specified")
    rest = words[len(name.split()) :]
    if len(rest) != count:
        raise Usage(f"expected {count} positional arguments, got {rest}")
    if "quiet" not in flags:
        raise Usage("would ask questions without --quiet")
    return name, rest, flags


def check_kind(flags):
    """Check accelerator type and runtime version."""
    prefix, _, size = flags["accelerator-type"].rpartition("-")
    if prefix not in SIZES or not size.isdigit() or int(size) not in SIZES[prefix]:
        raise Usage(f"INVALID_ARGUMENT: no accelerator type {flags['accelerator-type']}")
    runtime = flags.get("version") or flags.get("runtime-version")
    if runtime != RUNTIMES[prefix]:
        raise Usage(f"INVALID_ARGUMENT: {runtime} does not boot on {prefix}")
