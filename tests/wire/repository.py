"""The package of the wire's tests that has units, a frequency and a covariate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.packages import random_weights
from tidegate.model.package import Package, save_package

FEATURES = ("temperature", "wind", "rain")


def station_package(folder: Path, **fields: Any) -> Package:
    """`station/1`: predicts temperature in degC and wind in m/s, takes rain in mm too; daily; gaps of 3 are imputed."""
    units = ("degC", "m/s", "mm")
    manifest = {
        "name": "station",
        "version": "1",
        "description": "Made for tests.",
        "features": [
            {
                "name": name,
                "unit": unit,
                "role": "past" if name == "rain" else "target",
                "scaling": {"center": 10.0, "scale": 8.0},
            }
            for name, unit in zip(FEATURES, units, strict=True)
        ],
        "targets": ["wind", "temperature"],
        "cell": "gru",
        "hidden_size": 16,
        "frequency": "D",
        "gaps": {"policy": "impute", "gap_steps_max": 3, "missing_steps_max": 1},
        **fields,
    }
    return save_package(folder / "station" / str(manifest["version"]), manifest, random_weights(manifest))
