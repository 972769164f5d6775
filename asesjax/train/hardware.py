"""What the devices can do and hold, as far as it is known."""

import jax
from jax.sharding import Mesh

# Peak of dense bfloat16 products, FLOP/s of a device as jax counts devices, from the makers' data
# sheets. The first whose name begins a device's kind counts.
_PEAKS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "NVIDIA A100": 312e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA H200": 989e12,
}


def peak_flops(device_kind: str) -> float | None:
    """Return the peak FLOP/s of a device in bfloat16, None where it is not known.

    Args:
      device_kind: as jax tells it.

    Example:
      >>> peak_flops("TPU v5 lite"), peak_flops("NVIDIA H200"), peak_flops("cpu")
      (197000000000000.0, 989000000000000.0, None)
    """
    return next((peak for name, peak in _PEAKS.items() if device_kind.startswith(name)), None)


def mesh_peak_flops(mesh: Mesh) -> float | None:
    """Return the peak FLOP/s of all devices of a mesh, None where it is not known."""
    peaks = [peak_flops(device.device_kind) for device in mesh.devices.flat]
    return None if None in peaks else sum(peaks)


def peak_memory(device: jax.Device) -> int | None:
    """Return the most bytes the device held at once so far, None where the backend is silent."""
    stats = device.memory_stats() or {}
    return stats.get("peak_bytes_in_use")
