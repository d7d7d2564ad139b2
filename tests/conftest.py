"""What all tests share: hypothesis profiles, and a small server that a module's tests use together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.packages import random_package
from tests.servers import RunningServer

# `make test` uses "check"; `--hypothesis-profile soak` looks longer.
# How long an example takes to draw says how busy the machine is.
SLOW = [hypothesis.HealthCheck.too_slow]
hypothesis.settings.register_profile("check", deadline=None, print_blob=True, suppress_health_check=SLOW)
hypothesis.settings.register_profile("soak", hypothesis.settings.get_profile("check"), max_examples=2000)
hypothesis.settings.load_profile("check")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of one small random model, `random` (LSTM, four features that are all targets)."""
    folder = tmp_path_factory.mktemp("repository") / "models"
    random_package(folder)
    return folder


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[RunningServer]:
    """A server of that repository."""
    with RunningServer(models) as running:
        yield running
