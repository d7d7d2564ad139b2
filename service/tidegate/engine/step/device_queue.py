"""What is put in line on a device: copies to it, steps, copies back. On CUDA these are two streams and events.

Rules on CUDA: copies to the device have a stream of their own, so that the next batch comes while this one is stepped;
a step waits for the copies before it and for what its caller put on the current stream (say, a session's zero state);
results go back on the steps' stream. On CPU everything is done when the call returns; the same tests run on both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Work = Callable[[], None]


class DeviceQueue(Protocol):
    """Buffers are uint8 [bytes]; the caller leaves one alone while something in line reads or writes it."""

    records: bool  # whether `record` may be called

    def buffers(self, size: int) -> tuple[Tensor, Tensor]:
        """One on the host, pinned where that means something, and one on the device. Slow on CUDA: waits for it."""
        ...

    def bring(self, host: Tensor, device: Tensor) -> None:
        """Copies to the device."""
        ...

    def run(self, work: Work) -> None:
        """Does the work behind all that was brought and run, and behind the caller's current stream."""
        ...

    def land(self, device: Tensor, host: Tensor) -> Work:
        """Copies to the host behind all that was run; what is returned waits until it is there."""
        ...

    def record(self, work: Work) -> Work:
        """Inside `run`: what does this work again, at less cost (a CUDA graph). The work itself is not done now. Raises
        RuntimeError where it cannot be recorded."""
        ...

    def settle(self) -> None:
        """Waits for everything."""
        ...


class HostQueue:
    """CPU: no line at all."""

    records = False

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def buffers(self, size: int) -> tuple[Tensor, Tensor]:
        return torch.empty(size, dtype=torch.uint8), torch.empty(size, dtype=torch.uint8, device=self._device)

    def bring(self, host: Tensor, device: Tensor) -> None:
        device.copy_(host)

    def run(self, work: Work) -> None:
        work()

    def land(self, device: Tensor, host: Tensor) -> Work:
        host.copy_(device)
        return lambda: None

    def record(self, work: Work) -> Work:
        return work

    def settle(self) -> None:
        return


class CudaQueue:
    """Two streams of one CUDA device."""

    records = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._steps: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs = torch.cuda.graph_pool_handle()  # they share memory: they run one after the other

    def buffers(self, size: int) -> tuple[Tensor, Tensor]:
        host = torch.empty(size, dtype=torch.uint8, pin_memory=True)
        device = torch.empty(size, dtype=torch.uint8, device=self._device)
        torch.cuda.synchronize(self._device)  # memory that it had before may be in use on the current stream
        return host, device

    def bring(self, host: Tensor, device: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            device.copy_(host, non_blocking=True)

    def run(self, work: Work) -> None:
        self._steps.wait_stream(torch.cuda.current_stream(self._device))
        self._steps.wait_stream(self._copies)
        with torch.cuda.stream(self._steps):
            work()

    def land(self, device: Tensor, host: Tensor) -> Work:
        landed = torch.cuda.Event()  # type: ignore[no-untyped-call]
        with torch.cuda.stream(self._steps):
            host.copy_(device, non_blocking=True)
            landed.record()
        return landed.synchronize

    def record(self, work: Work) -> Work:
        graph = torch.cuda.CUDAGraph()
        # Other threads may use CUDA meanwhile: they are none of the capture's business.
        with torch.cuda.graph(graph, pool=self._graphs, stream=self._steps, capture_error_mode="thread_local"):
            work()
        return graph.replay

    def settle(self) -> None:
        self._copies.synchronize()
        self._steps.synchronize()


def queue_of(device: torch.device) -> DeviceQueue:
    """The line of a device."""
    return CudaQueue(device) if device.type == "cuda" else HostQueue(device)
