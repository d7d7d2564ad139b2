"""Compiles the C of this folder to shared libraries beside it: `python build.py`. Standard library alone.

There are two for x86-64: one takes eight floats at a time, the other sixteen, where the processor can (AVX-512). Both
come to the same bits.

`pip install` runs it (hatch_build.py). It needs nothing but a C compiler, neither Python's headers nor its version,
because ctypes loads what it makes. Where there is none, Tidegate works all the same, more slowly.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parent
LIBRARY, WIDE = FOLDER / "tidegate.so", FOLDER / "tidegate-wide.so"
# No contraction: what is to be fused is written so, and the same everywhere. No fast-math, for the same reason.
FLAGS = ["-O3", "-std=c11", "-fPIC", "-shared", "-pthread"]
FLAGS += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
# Fused multiply-add and eight floats at a time: what is slow without them is not worth having.
X86 = {LIBRARY: ["-march=x86-64-v3"], WIDE: ["-march=x86-64-v4"]}
TARGETS = {"x86_64": X86, "AMD64": X86}


def stamp() -> int:
    """Of the sources as they are, and of how they are built: a library with another one does not fit this Python."""
    sources = sorted([*FOLDER.glob("*.[ch]"), Path(__file__)])
    return int.from_bytes(hashlib.sha256(b"".join(source.read_bytes() for source in sources)).digest()[:7], "little")


def build() -> str:
    """Makes the libraries; returns "" or why there are none."""
    if sys.byteorder != "little":
        return "they take numbers from messages as they lie there, least byte first"
    for library, flags in TARGETS.get(platform.machine(), {LIBRARY: []}).items():
        why = _compile(library, flags)
        if why:
            return why
    return ""


def _compile(library: Path, flags: list[str]) -> str:
    command = [*shlex.split(os.environ.get("CC", "cc")), *FLAGS, *flags, f"-DTIDEGATE_STAMP={stamp()}"]
    made = library.with_suffix(f".{os.getpid()}")  # so that nobody loads half of one
    try:
        sources = [str(source) for source in sorted(FOLDER.glob("*.c"))]
        done = subprocess.run([*command, "-o", str(made), *sources, "-lm"], check=False, capture_output=True, text=True)
        if done.returncode:
            return done.stderr.strip()[-2000:] or f"{command[0]}: exit code {done.returncode}"
        made.replace(library)
    except OSError as error:
        return str(error)
    finally:
        made.unlink(missing_ok=True)
    return ""


if __name__ == "__main__":
    sys.exit(build() or None)
