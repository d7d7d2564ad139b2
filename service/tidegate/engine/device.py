"""The device that steps run on, and its memory."""

from __future__ import annotations

import os

import torch

from tidegate.engine.memory import machine_bytes
from tidegate.errors import ConfigError


def choose_device(wanted: str) -> str:
    """The device for `wanted` ("auto", "cpu" or "cuda"); raises ConfigError for one that is not there."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device: cuda is asked for, but torch finds no CUDA device")
    return "cuda" if wanted != "cpu" and available else "cpu"


def use_one_thread() -> None:
    """Keeps torch from splitting an operation between threads (the stepper splits work itself, at whole tiles), and
    from rounding products to TF32 on CUDA."""
    torch.set_num_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = False


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes(device: str) -> int:
    """Memory that sessions may share: what is free on a CUDA device, what the machine has on CPU."""
    if device == "cuda":
        return int(torch.cuda.mem_get_info()[0])
    return machine_bytes()


def device_memory_used() -> float:
    """Bytes in use on the CUDA device, by everyone."""
    free, total = torch.cuda.mem_get_info()
    return float(total - free)


def torch_version() -> str:
    """Which torch runs."""
    return str(torch.__version__)
