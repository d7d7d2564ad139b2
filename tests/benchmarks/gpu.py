"""What a GPU does, for when there is one: `python -m tests.benchmarks.gpu`.

Without a CUDA device it says so and measures nothing. `--device cpu --quick` runs the same code on CPU, with small
sizes: that says that the code runs, and nothing about speed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from tests.benchmarks import gpu_server, gpu_steps
from tests.benchmarks.machine import about_machine, about_versions
from tests.benchmarks.report import Finding, table
from tidegate.engine.step.device import use_one_thread

NO_DEVICE = "no CUDA device: nothing is measured (--device cpu --quick runs the same code, small, on CPU)"
SERVER_PARTS = ("clients", "resident")


@dataclass(frozen=True)
class Sizes:
    """What is measured: of a step, of small batches, of batches through gRPC, of resident sessions."""

    step_hidden: int = 512
    step_rows: int = 4096
    small_hidden: int = 512
    small_rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    served_hidden: int = 128
    served_rows: int = 4096
    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    resident_hidden: int = 128
    resident_sessions: int = 10_000_000


QUICK = Sizes(32, 64, 32, (1, 33), 16, 64, (1, 2), 16, 20_000)


def main() -> None:
    """The command."""
    asked = arguments()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(NO_DEVICE)
        return
    use_one_thread()
    machine = about_machine()
    if asked.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    for about in (machine, about_versions()):
        print(", ".join(f"{name} {value}" for name, value in about.items()))
    findings = measure(asked)
    print("\n".join(("", *table(findings))))
    if asked.json is not None:
        records = [finding.record() for finding in findings]
        asked.json.write_text(json.dumps({"machine": machine, "versions": about_versions(), "findings": records}))


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--quick", action="store_true", help="small sizes, a moment each")
    parser.add_argument("--only", nargs="+", choices=["step", "small", *SERVER_PARTS], metavar="NAME")
    parser.add_argument("--runs", type=int, default=5, help="how often each is measured in turn (default 5)")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each load goes on (default 5)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    asked = parser.parse_args()
    if asked.runs < 1 or asked.seconds <= 0:
        parser.error("--runs and --seconds must be above 0")
    return asked


def measure(asked: argparse.Namespace) -> list[Finding]:
    """Runs the parts that were asked for, and prints each as it comes."""
    sizes, runs, seconds = (QUICK, 1, 1.0) if asked.quick else (Sizes(), asked.runs, asked.seconds)
    device, findings = asked.device, list[Finding]()
    with tempfile.TemporaryDirectory(prefix="tidegate-gpu-") as name:
        folder = Path(name)
        parts: dict[str, Callable[[], list[Finding]]] = {
            "step": lambda: gpu_steps.step(folder, device, sizes.step_hidden, sizes.step_rows, runs),
            "small": lambda: gpu_steps.small(folder, device, sizes.small_hidden, sizes.small_rows, runs),
            "clients": lambda: gpu_server.clients(
                folder, device, sizes.served_hidden, sizes.served_rows, sizes.clients, seconds
            ),
            "resident": lambda: gpu_server.resident(folder, device, sizes.resident_hidden, sizes.resident_sessions),
        }
        for part in asked.only or parts:
            print(f"\n{part}", flush=True)
            found = parts[part]()
            print("\n".join(line for finding in found for line in finding.lines()), flush=True)
            findings += found
    return findings


if __name__ == "__main__":
    main()
