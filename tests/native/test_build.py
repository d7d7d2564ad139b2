"""A library that does not fit the sources is not used."""

from __future__ import annotations

from ctypes import CDLL

import pytest

from tidegate import native as parts
from tidegate.native import build, library


def test_other_sources(native: CDLL, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """One that was built before the sources changed is left alone, and the log says what to do."""
    assert native.tidegate_stamp() == build.stamp()
    monkeypatch.setattr(parts, "stamp", lambda: build.stamp() + 1)
    assert library.__wrapped__() is None
    assert "native/build.py" in caplog.text


def test_a_compiler_that_fails_without_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Is told of as any other that fails, and not taken for one that has made the library."""
    monkeypatch.setenv("CC", "false")
    assert build.build() == "false: exit code 1"
