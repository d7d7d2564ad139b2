"""The device, how products on it are rounded, and which kernel it can run."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tidegate.engine.step import device
from tidegate.engine.step.device import allow_tf32, check_kernel
from tidegate.errors import ConfigError


@pytest.fixture
def as_it_was() -> Iterator[None]:
    """Leaves torch's own switches as they were."""
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = flags


@pytest.mark.usefixtures("as_it_was")
def test_tf32_is_said_each_way() -> None:
    """Both switches follow the setting, whatever torch's defaults are."""
    for allowed in (True, False, True):
        allow_tf32(allowed)
        assert (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32) == (allowed, allowed)


def test_kernels_that_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Triton is refused on CPU and where it is missing, with what to do instead; the others never are."""
    for kernel in ("auto", "torch"):
        check_kernel(kernel, "cpu")
        check_kernel(kernel, "cuda")
    with pytest.raises(ConfigError, match="--device cuda"):
        check_kernel("triton", "cpu")
    monkeypatch.setattr(device, "installed", lambda: True)
    check_kernel("triton", "cuda")
    monkeypatch.setattr(device, "installed", lambda: False)
    with pytest.raises(ConfigError, match="pip install triton"):
        check_kernel("triton", "cuda")
