"""The machine and the versions that a figure was taken on, and which core runs what."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import psutil

from tidegate.native import library

REPOSITORY = Path(__file__).parents[2]
LIBRARIES = ("torch", "grpcio", "protobuf", "numpy", "uvloop", "onnxruntime")
TRITON_LIBRARIES = ("nvidia-pytriton", "torch", "numpy")
BUSY_LOAD = 0.3  # above this load average somebody else is at work


@dataclass(frozen=True)
class Cores:
    """Which core servers run on and which the load. One and the same where there is only one."""

    server: int
    load: int

    @classmethod
    def of_this_machine(cls) -> Cores:
        """The first two that this process may use."""
        usable = sorted(os.sched_getaffinity(0))
        return cls(usable[0], usable[1 % len(usable)])

    @property
    def both(self) -> tuple[int, ...]:
        """For servers that have two; the load then shares the second with them."""
        return tuple(sorted({self.server, self.load}))


@contextlib.contextmanager
def on_cores(cores: Collection[int]) -> Iterator[None]:
    """What is started inside runs on those cores alone, with all its threads."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def about_machine() -> dict[str, object]:
    """Processor, cores, memory and the load when this was asked."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "system": f"{platform.system()} {platform.release()}",
    }


def cpu_model() -> str:
    """As the kernel names it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def about_versions() -> dict[str, str]:
    """Python, the libraries that are installed, and the commit."""
    versions = {"python": platform.python_version(), "tidegate": f"{version('tidegate')} ({commit()})"}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions | {"C parts": "used" if library() is not None else "not used"}


def about_triton(venv: Path) -> dict[str, str]:
    """What Triton's environment holds; empty where it cannot be asked."""
    ask = f"from importlib.metadata import version; print(*map(version, {list(TRITON_LIBRARIES)}))"
    try:
        done = subprocess.run([str(venv / "bin" / "python"), "-c", ask], check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return {}
    return dict(zip((f"triton's {name}" for name in TRITON_LIBRARIES), done.stdout.split(), strict=True))


def commit() -> str:
    """The commit that is checked out, and whether files differ from it."""
    try:
        head = _git("rev-parse", "--short", "HEAD")
        changed = _git("status", "--porcelain", "--", "service", "tests/benchmarks")
    except (OSError, subprocess.CalledProcessError):
        return "no commit known"
    return f"{head} with changes" if changed else head


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
