"""Runs `triton_cases.py`: Triton's kernels in its interpreter, wherever Triton is installed, and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from tidegate.model.triton_lstm import COMMIT_COLUMNS, COMMIT_ROWS, DEPTH, ROWS, UNITS, WARPS

CASES = Path(__file__).with_name("triton_cases.py")
SECONDS_MAX = 840  # a minute of a core's time: several where others share the core
patiently = pytest.mark.timeout(SECONDS_MAX + 60)
installed = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed (Linux on x86-64 alone)")


def run_cases(interpret: str) -> None:
    """In a process of their own; all of them must pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(CASES)]
    environment = {**os.environ, "TRITON_INTERPRET": interpret}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=SECONDS_MAX)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-1000:]
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@installed
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
@pytest.mark.parametrize("capability", [80, 90])
def test_the_kernels_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capability: int, precision: str) -> None:
    """To GPUs' machine code, which takes no GPU. No product of float32 goes to a tensor core; those of TF32 do."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    tile = {"ROWS": ROWS, "UNITS": UNITS, "DEPTH": DEPTH, "PRECISION": precision}
    layer = {"INPUTS": 5, "HIDDEN": 40, "CHANNELS": 1, "ROW_WIDTH": 160, "H_AT": 80, "TANH": True, **tile}
    head = {"WIDTH": 40, "ACTIVATION": "tanh", **tile}
    commit = {"WIDTH": 160, "SPARE": 0, "ROWS": COMMIT_ROWS, "COLUMNS": COMMIT_COLUMNS}
    for name, constants in (("lstm_layer", layer), ("affine", head), ("commit", commit)):
        products = compiled(name, constants, capability).count("mma.sync")
        assert bool(products) is (precision == "tf32" and name != "commit")


def compiled(name: str, constants: dict[str, Any], capability: int) -> str:
    """The PTX of a kernel, of which there is machine code too."""
    compiler, backend = (import_module(f"triton.{module}") for module in ("compiler", "backends.compiler"))
    kernel = getattr(import_module("tidegate.model.triton_kernels"), name)
    types = {
        "slots": "*i64",
        "fresh": "*u8",
        "finite": "*u8",
        "x_stride": "i32",
        "state_stride": "i32",
        "columns": "i32",
    }
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, "*fp32")
        for argument in kernel.arg_names
    }
    source = compiler.ASTSource(kernel, signature, constexprs=constants)
    target = backend.GPUTarget("cuda", capability, 32)
    made = compiler.compile(source, target=target, options={"num_warps": WARPS}).asm
    assert made["cubin"]
    return str(made["ptx"])


@installed
@patiently
def test_in_the_interpreter() -> None:
    """The kernels' logic, without a GPU: the interpreter runs them operation by operation in NumPy."""
    run_cases("1")


@installed
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
@patiently
def test_on_the_device() -> None:
    """The kernels as they are compiled."""
    run_cases("0")
