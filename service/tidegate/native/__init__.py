"""The parts of the hot path that are C: called by ctypes, with addresses; each has a slower equal in Python.

`library()` is None where they were not built, or not from the sources that are here, the processor lacks what they are
built for, or TIDEGATE_NATIVE is 0.
"""

from __future__ import annotations

import ctypes
import logging
import os
from ctypes import c_char, c_double, c_int64, c_void_p
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.native.build import LIBRARY, WIDE, stamp

log = logging.getLogger(__name__)

_SIGNATURES: dict[str, list[Any]] = {  # as the C files declare them
    "tidegate_step": [c_void_p, c_int64],
    "tidegate_history": [c_void_p, c_int64],
    "tidegate_crew": [c_int64],
    "tidegate_crew_post": [c_void_p, c_void_p, c_int64, c_int64, c_int64],
    "tidegate_crew_wait": [c_void_p, c_void_p],
    "tidegate_crew_end": [c_void_p],
    "tidegate_turn": [c_void_p, c_int64, c_int64, c_double],
    "tidegate_count_turn": [c_void_p, c_double, c_double],
    "tidegate_look": [c_void_p, c_void_p, c_int64, c_int64, c_double],
    "tidegate_commit": [c_void_p, c_void_p, c_void_p, c_double],
    "tidegate_observation": [c_void_p, c_int64, c_void_p, c_int64, c_int64, c_double, c_void_p],
    "tidegate_batch": [c_void_p, c_int64, c_void_p, c_int64, c_int64, c_void_p, c_int64, c_double],
    "tidegate_predictions": [c_void_p, c_void_p, c_void_p, c_void_p],
    "tidegate_prediction_batch": [c_void_p, c_int64, c_int64, c_int64, c_int64, c_void_p],
    "tidegate_count": [c_void_p, c_void_p, c_int64, c_double],
}
LAYERS_MAX, HEADS_MAX = 16, 5
_NEEDS = {LIBRARY: {"avx2", "fma", "bmi2"}, WIDE: {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"}}


class Inputs(ctypes.Structure):
    """How a package derives what its cell sees; see inputs.h. Addresses and counts."""

    _fields_ = (
        ("features", c_int64),
        *((name, c_void_p) for name in ("curved", "center", "scale")),
        *((name, c_int64) for name in ("session_features", "window")),
        *((name, c_void_p) for name in ("session_feature", "instance", "session_scaled")),
        ("values", c_int64),
        *((name, c_void_p) for name in ("value_feature", "value_category")),
        *((name, c_int64) for name in ("lagged", "lags")),
        *((name, c_void_p) for name in ("lagged_feature", "lag_entry", "lag_steps", "lag_scale")),
        *((name, c_int64) for name in ("calendar", "ids", "ages", "columns", "arranged")),
        ("arrange", c_void_p),
        *((name, c_int64) for name in ("feedback", "targets", "target_width")),
        *((name, c_void_p) for name in ("target_feature", "change")),
        *((name, c_int64) for name in ("plain", "fixed")),
    )


class Pass(ctypes.Structure):
    """One pass over some rows; see lstm.h. Addresses and counts."""

    _fields_ = (
        *((name, c_int64) for name in ("hidden", "layers", "channels", "part_width", "row_width", "identity")),
        ("columns", c_int64),
        *((name, c_void_p) for name in ("product", "after", "zeros")),
        ("x", c_void_p * LAYERS_MAX),
        ("width", c_int64 * LAYERS_MAX),
        ("bias", c_void_p * LAYERS_MAX),
        ("peephole", c_void_p * LAYERS_MAX),
        *((name, c_void_p) for name in ("inputs", "level", "whole", "new_levels", "new_running", "meaning")),
        ("outputs", c_int64),
        *((name, c_int64) for name in ("room", "chunk")),
        ("weight", c_void_p * LAYERS_MAX),
        *((name, c_int64) for name in ("heads", "tanh", "softmax")),
        *((name, c_int64 * HEADS_MAX) for name in ("head_depth", "head_panels")),
        *((name, c_void_p * HEADS_MAX) for name in ("head_weight", "head_bias")),
        ("between", c_void_p * 2),
        ("put_out", c_void_p),
        *((name, c_void_p) for name in ("state", "ring", "running", "feedback")),
        ("ring_steps", c_int64),
        *((name, c_void_p) for name in ("slots", "fresh", "raw", "seen", "calendar", "ages", "id")),
        *((name, c_void_p) for name in ("values", "finite")),
    )


@cache
def library() -> ctypes.CDLL | None:
    """The library, loaded once: the widest that the processor can take."""
    if os.environ.get("TIDEGATE_NATIVE") == "0":
        return None
    if not LIBRARY.exists():
        log.info("the C parts are not built (no C compiler when Tidegate was installed?); Python does their work")
        return None
    path = next((path for path in (WIDE, LIBRARY) if path.exists() and fits(path)), None)
    if path is None:
        log.info("the C parts are built for a newer processor than this one; Python does their work")
        return None
    return load(path)


def fits(path: Path) -> bool:
    """Whether the processor has what build.py asks for; on others than x86-64 it asks for nothing."""
    return processor() >= _NEEDS[path] or (path == LIBRARY and not processor())


def load(path: Path) -> ctypes.CDLL | None:
    """One of the libraries, if it is of these sources."""
    loaded = ctypes.CDLL(str(path))
    if not _of_these_sources(loaded):
        log.warning("the C parts are of other sources than those here, so Python does their work: run native/build.py")
        return None
    for name, arguments in _SIGNATURES.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, c_int64
    return loaded


def address(array: NDArray[np.generic]) -> int:
    """Of its first element. The array must be C-contiguous, and outlive the call."""
    try:
        return ctypes.addressof(c_char.from_buffer(array))  # type: ignore[arg-type]  # a fifth of what NumPy costs
    except (TypeError, ValueError):  # it is read-only, or empty
        start: int = array.__array_interface__["data"][0]
        return start


def _of_these_sources(loaded: ctypes.CDLL) -> bool:
    """Whether it was built since the sources changed last: an older one would take our structures for others."""
    made = getattr(loaded, "tidegate_stamp", None)
    if made is None:
        return False
    made.restype = c_int64
    return bool(made() == stamp())


@cache
def processor() -> frozenset[str]:
    """What the processor can do, as Linux names it on x86-64; elsewhere nothing is known."""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return frozenset()
    start = flags.find("\nflags")
    return frozenset() if start < 0 else frozenset(flags[start : flags.find("\n", start + 1)].split())
