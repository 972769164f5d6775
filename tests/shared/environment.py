"""The environment of tests, and of the processes that they start."""

from importlib.metadata import version

# The tests compile much and compute little. These leave out XLA's slowest steps, together two
# thirds of its time. An unknown flag ends the process, so they are for the jaxlib that has them.
_QUICK = (
    "--xla_cpu_use_fusion_emitters=false", "--xla_cpu_opt_preset=CPU_OPT_PRESET_FAST_COMPILE",
    "--xla_cpu_parallel_codegen_split_count=1",
)  # fmt: skip


def xla_flags(devices: int) -> str:
    """XLA_FLAGS for so many virtual CPU devices. One is quicker to compile for than eight."""
    quick = _QUICK if version("jaxlib").startswith("0.10.") else ()
    return " ".join((f"--xla_force_host_platform_device_count={devices}", *quick))
