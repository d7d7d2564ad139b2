"""Generated code is committed; it has to be what protos/ gives."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tidegate.wire.stubs import types_pb2

ROOT = Path(__file__).parents[2]


@pytest.mark.skipif(importlib.util.find_spec("grpc_tools") is None, reason="needs grpcio-tools (the dev extra)")
def test_stubs_are_current() -> None:
    """A fresh generation gives the committed files, byte for byte."""
    command = [sys.executable, str(ROOT / "scripts" / "generate_protos.py"), "--check"]
    checked = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert checked.returncode == 0, checked.stderr


def test_descriptors_keep_their_wire_names() -> None:
    """The stubs' place in Python is ours; on the wire a file is named by its path under protos/."""
    assert types_pb2.DESCRIPTOR.name == "tidegate/v1/types.proto"
    assert types_pb2.DESCRIPTOR.package == "tidegate.v1"
