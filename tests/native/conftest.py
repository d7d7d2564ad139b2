"""The C parts, for tests that are about them."""

from __future__ import annotations

from ctypes import CDLL

import pytest

from tidegate.native import library

WHY = "the C parts are not built, or TIDEGATE_NATIVE is 0: python service/tidegate/native/build.py"


@pytest.fixture(autouse=True)
def native() -> CDLL:
    """The library; a test without it says why it is skipped."""
    loaded = library()
    if loaded is None:
        pytest.skip(WHY)
    return loaded
