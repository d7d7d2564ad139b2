"""The device that steps run on, and its memory."""

from __future__ import annotations

import os

import torch

from tidegate.engine.memory.pages import machine_bytes
from tidegate.errors import ConfigError
from tidegate.model.slot_kernel import KernelChoice
from tidegate.model.triton_lstm import installed

INLINE_SECONDS_MAX = 2e-3  # a longer step would keep the loop from its reads; a thread costs more than a shorter one
ALONE_SECONDS_MAX = 4e-3  # the same with one core, which a thread would share with the loop
SHARED_SECONDS_MAX = 3e-4  # threads that share a step are worth their bell from here on


def choose_device(wanted: str) -> str:
    """The device for `wanted` ("auto", "cpu" or "cuda"); raises ConfigError for one that is not there."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ConfigError("device: cuda is asked for, but torch finds no CUDA device")
    return "cuda" if wanted != "cpu" and available else "cpu"


def use_one_thread() -> None:
    """Keeps torch from splitting an operation between threads: the stepper splits work itself, at whole tiles."""
    torch.set_num_threads(1)


def allow_tf32(allowed: bool) -> None:
    """Whether products on CUDA may be rounded to TF32 (10 bits of mantissa for 23, and several times the speed)."""
    torch.backends.cuda.matmul.allow_tf32 = allowed
    torch.backends.cudnn.allow_tf32 = allowed


def check_kernel(kernel: KernelChoice, device: str) -> None:
    """Raises ConfigError for a kernel that cannot run on the device."""
    if kernel == "triton" and device != "cuda":
        raise ConfigError("kernel: triton is asked for, which runs on CUDA devices alone; take auto, or --device cuda")
    if kernel == "triton" and not installed():
        raise ConfigError("kernel: triton is asked for and is not installed: pip install triton, or take auto")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def inline_seconds_max(shared: bool) -> float:
    """The longest step that the event loop takes itself. `shared`: threads would share it."""
    if shared:
        return SHARED_SECONDS_MAX
    return INLINE_SECONDS_MAX if cores() > 1 else ALONE_SECONDS_MAX


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
