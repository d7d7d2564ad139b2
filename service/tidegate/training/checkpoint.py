"""The state of a training on disk, beside the model's versions: written whole or not at all, removed at the end."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch

FOLDER, FILE = ".training", "checkpoint.pt"


class Checkpoint:
    """One training's file in `models/NAME/.training`. `key` names the training: of another one, nothing is loaded."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / FOLDER / FILE
        self._key = key

    def save(self, state: dict[str, Any]) -> None:
        """Replaces what was there."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        part = self._path.with_suffix(".part")
        with part.open("wb") as file:
            torch.save({"key": self._key, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self._path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What was saved last by this training, or None. Tensors and plain values only: no code is loaded."""
        try:
            content = torch.load(self._path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, ValueError, EOFError):
            return None
        if not isinstance(content, dict) or content.get("key") != self._key:
            return None
        state: dict[str, Any] = content["state"]
        return state

    def remove(self) -> None:
        """The training is done."""
        shutil.rmtree(self._path.parent, ignore_errors=True)
