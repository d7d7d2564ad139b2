"""docs/history.md says only what there is: its Python runs, its limits, metrics and reasons exist."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.servers import RunningServer
from tidegate.config import Limits
from tidegate.errors import Reason

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "history.md").read_text()


def test_it_says_what_there_is(tmp_path: Path) -> None:
    """Limits have the defaults that are said, reasons are reasons, metrics are there, and the example runs."""
    for name, number in re.findall(r"`limits\.(\w+)`(?: \((\d+)\))?", PAGE):
        assert getattr(Limits(), name) == int(number or getattr(Limits(), name))
    for name in re.findall(r"`([A-Z][A-Z_]+)`", PAGE):
        assert name in Reason.__members__
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "models").symlink_to(ROOT / "models")
    with RunningServer(tmp_path / "models") as server:
        metrics = server.get("/metrics")
        for name in re.findall(r"`(tidegate_\w+)`", PAGE):
            assert f"\n{name} " in metrics
        code = block.replace("127.0.0.1:8001", server.grpc)
        assert code != block
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "after 1000 days" in done.stdout
