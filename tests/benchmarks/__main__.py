"""`python -m tests.benchmarks`: runs scenarios, prints each figure beside its budget, writes a JSON record."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.benchmarks import gload
from tests.benchmarks.gload import BenchmarkError
from tests.benchmarks.machine import BUSY_LOAD, Cores, about_machine, about_triton, about_versions
from tests.benchmarks.report import Finding, table
from tests.benchmarks.scenario import PeerMissingError, Settings
from tests.benchmarks.scenarios import SCENARIOS


@dataclass
class Outcome:
    """What was found, and why the other scenarios found nothing: their peer is missing, or something went wrong."""

    findings: list[Finding] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """All of it, one line each."""
        skipped = [f"{name:<28}skipped: {why}" for name, why in self.skipped.items()]
        failed = [f"{name:<28}FAILED: {why}" for name, why in self.failed.items()]
        return [*table(self.findings), *skipped, *failed]

    def record(self) -> dict[str, object]:
        """For the JSON file."""
        findings = [finding.record() for finding in self.findings]
        return {"findings": findings, "skipped": self.skipped, "failed": self.failed}


def main() -> None:
    """The command."""
    asked = arguments()
    names = asked.only or [name for name, scenario in SCENARIOS.items() if asked.all or not scenario.slow]
    cores = Cores.of_this_machine()
    try:
        gload.build()
    except BenchmarkError as error:
        raise SystemExit(str(error)) from None
    machine, versions = about_machine(), about_versions()
    if asked.triton_venv is not None:
        versions |= about_triton(asked.triton_venv)
    introduce(machine, versions, cores)
    os.sched_setaffinity(0, {cores.load})  # ours, and what we start unless it says otherwise
    with tempfile.TemporaryDirectory(prefix="tidegate-benchmarks-") as folder:
        os.environ["TMPDIR"] = folder  # what children leave behind goes with it
        outcome = run_all(names, Settings(asked.runs, asked.seconds, cores, Path(folder), asked.triton_venv))
    print("\n".join(("", *outcome.lines())))
    if asked.json is not None:
        record = {
            "taken": datetime.now(UTC).isoformat(timespec="seconds"),
            "machine": machine,
            "load_average_after": list(os.getloadavg()),
            "versions": versions,
            "runs": asked.runs,
            "seconds": asked.seconds,
            **outcome.record(),
        }
        asked.json.parent.mkdir(parents=True, exist_ok=True)
        asked.json.write_text(json.dumps(record, indent=2) + "\n")
    if outcome.failed:
        raise SystemExit(1)


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    names = "\n".join(
        f"  {name:<28}{scenario.about}{' (only when asked)' if scenario.slow else ''}"
        for name, scenario in SCENARIOS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks",
        description="Measures Tidegate beside references in the same run and prints ratios.",
        epilog=f"scenarios:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=SCENARIOS, metavar="NAME", help="these scenarios alone")
    parser.add_argument("--all", action="store_true", help="the slow ones too")
    parser.add_argument("--runs", type=int, default=5, help="how often each pair is measured (default 5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each time (default 3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the record here")
    parser.add_argument("--triton-venv", type=Path, metavar="DIR", help="an environment with Triton's server")
    asked = parser.parse_args()
    if asked.runs < 1 or asked.seconds <= 0:
        parser.error("--runs and --seconds must be above 0")
    return asked


def introduce(machine: dict[str, object], versions: dict[str, str], cores: Cores) -> None:
    """Prints what the figures are taken on."""
    print(", ".join(f"{name} {value}" for name, value in machine.items()))
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    print(f"servers on core {cores.server}, load on core {cores.load}")
    if cores.server == cores.load:
        print("There is one core alone: server and load share it, and ratios say little.")
    if os.getloadavg()[0] > BUSY_LOAD:
        print("The machine was busy in the last minute. If it still is, wait: figures will be noisy.")


def run_all(names: list[str], settings: Settings) -> Outcome:
    """Runs the scenarios and prints each as it comes. One that fails does not keep the others from running."""
    outcome = Outcome()
    for name in names:
        print(f"\n{name}", flush=True)
        try:
            found = SCENARIOS[name].run(settings)
        except PeerMissingError as why:
            outcome.skipped[name] = str(why)
            print(f"  skipped: {why}")
        except (
            BenchmarkError,
            RuntimeError,
            subprocess.TimeoutExpired,
        ) as why:  # the last two: ours as it starts, stops
            outcome.failed[name] = str(why)
            print(f"  FAILED: {why}")
        else:
            outcome.findings += found
            print("\n".join(line for finding in found for line in finding.lines()), flush=True)
    return outcome


if __name__ == "__main__":
    main()
