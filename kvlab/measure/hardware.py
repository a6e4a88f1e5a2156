"""The machine that numbers come from."""

from __future__ import annotations

import os
import platform

import torch

# OpenMP reads it once, when torch is imported, and what is set later changes nothing.
_WAITING = os.environ.get("OMP_WAIT_POLICY", "as OpenMP comes")


def machine() -> dict[str, object]:
    """What a number depends on: processor, cores, threads and how they wait, versions.

    `waiting` is what OpenMP was told by the time this module was imported: "passive", or nothing,
    and then its threads spin while they wait for each other. What is set later it does not read.
    """
    return {
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "waiting": _WAITING,
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def memory_bytes(device: torch.device) -> int | None:
    """Bytes of memory that a device has, of a GPU those that are free; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None


def cpu_name() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
