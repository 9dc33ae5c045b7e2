"""How much memory there is for what only saves time."""

from __future__ import annotations

import torch

_UNKNOWN = 4e9  # bytes, where the system does not say


def free_bytes(device: torch.device) -> float:
    """Bytes that a device could still give: of the processor, what Linux calls available."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo") as file:
            return next(float(line.split()[1]) * 1024 for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return _UNKNOWN
