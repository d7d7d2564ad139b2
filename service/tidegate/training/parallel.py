"""Training over several processes (torchrun): each takes a share of every batch, gradients are summed.

One process is the usual case, in which nothing here does anything.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import Tensor, distributed, nn

Item = TypeVar("Item")


class World:
    """Which of how many processes this is."""

    def __init__(self) -> None:
        self.size = distributed.get_world_size() if distributed.is_initialized() else 1
        self.rank = distributed.get_rank() if distributed.is_initialized() else 0

    def share(self, items: Sequence[Item]) -> list[Item]:
        """This process's part of a batch."""
        return list(items[self.rank :: self.size])

    def sum_gradients(self, parameters: Sequence[nn.Parameter], loss: Tensor, count: Tensor) -> tuple[float, float]:
        """Gradients of a sum of losses to those of the mean over all processes; returns the sum and the number."""
        numbers = torch.stack([loss.detach().double(), count.double()])
        if self.size > 1:
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
            flat = torch.cat([numbers.to(gradients[0].dtype), *(gradient.flatten() for gradient in gradients)])
            distributed.all_reduce(flat)
            numbers = flat[:2].double()
            pieces = torch.split(flat[2:], [parameter.numel() for parameter in parameters])
            for parameter, piece in zip(parameters, pieces, strict=True):
                parameter.grad = piece.view_as(parameter)
        total, number = numbers.tolist()
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad /= max(number, 1.0)
        return total, number

    def from_first(self, numbers: list[float], device: torch.device) -> list[float]:
        """The first process's numbers, in all."""
        if self.size == 1:
            return numbers
        told = torch.tensor(numbers, dtype=torch.float64, device=device)
        distributed.broadcast(told, 0)
        told_numbers: list[float] = told.tolist()
        return told_numbers


@contextmanager
def joined(device: torch.device) -> Iterator[World]:
    """The world that torchrun describes by its environment, joined; else one process."""
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1 or distributed.is_initialized()
    if not alone:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield World()
    finally:
        if not alone:
            distributed.destroy_process_group()


def default_device() -> torch.device:
    """A GPU if there is one: under torchrun, this process's own."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")
