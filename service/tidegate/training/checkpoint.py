"""The state of a training on disk, beside the model's versions: written whole or not at all, removed at the end.

Trainings of one name may run side by side: each has files of its own, and clears away no others.
"""

from __future__ import annotations

import os
import pickle
import struct
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import torch

FOLDER = ".training"
KEYLESS = ("checkpoint.pt", "checkpoint.part")  # of before there were keys: nobody goes on from them
# Of a file that is no checkpoint: torch tells of one in as many ways as there are bytes to stumble over.
UNREADABLE = (OSError, RuntimeError, ValueError, EOFError, LookupError, AttributeError, TypeError, struct.error)


class Checkpoint:
    """One training's file in `models/NAME/.training`. `key` names the training: of another one, nothing is loaded."""

    def __init__(self, folder: Path, key: str) -> None:
        self._path = folder / FOLDER / f"{key}.pt"
        self._key = key

    def save(self, state: dict[str, Any]) -> None:
        """Replaces what was there."""
        part = self._path.with_suffix(f".{os.getpid()}.part")
        with _created(part) as file:
            torch.save({"key": self._key, "state": state}, file)
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileNotFoundError):  # the same training, run twice, has ended meanwhile
            part.replace(self._path)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """What was saved last by this training, or None. Tensors and plain values only: no code is loaded."""
        try:
            content = torch.load(self._path, map_location=device, weights_only=True)
        except (*UNREADABLE, pickle.UnpicklingError):
            return None
        if not isinstance(content, dict) or content.get("key") != self._key:
            return None
        state: dict[str, Any] = content["state"]
        return state

    def remove(self) -> None:
        """The training is done: its files go, and the folder with the last one in it."""
        folder = self._path.parent
        for path in (self._path, *folder.glob(f"{self._key}.*.part"), *(folder / name for name in KEYLESS)):
            path.unlink(missing_ok=True)
        with suppress(OSError):
            folder.rmdir()


def _created(path: Path) -> IO[bytes]:
    """A new file in its folder, which another training that ends may take away before the file is in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        return path.open("wb")
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        return path.open("wb")
