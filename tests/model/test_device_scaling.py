"""Scaling on the device is the scaling that training and the reference use."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.packages import random_package
from tidegate.model.device_scaling import DeviceScaler
from tidegate.model.scaling import Scaler

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FEATURES = [
    {"name": "rain", "scaling": {"transform": "log1p", "center": 0.7, "scale": 0.9}},
    {"name": "meter", "scaling": {"center": 12_345_678.5, "scale": 0.25}},
    {"name": "wind", "role": "past", "scaling": {"center": 3.0, "scale": 1.4}},
]


@pytest.mark.parametrize("device", DEVICES)
def test_same_as_numpy(tmp_path: Path, device: str) -> None:
    """Both ways agree to one unit in the last place of float32, for every transform and for values out of range."""
    package = random_package(tmp_path, features=FEATURES, targets=["rain", "meter"])
    random = np.random.default_rng(0)
    raw = random.normal([2.0, 12_345_678.0, 3.0], [3.0, 1.0, 2.0], (64, 3))
    raw[0] = [1e300, -1e300, 0.0]
    on_device, plain = DeviceScaler(package, torch.device(device)), Scaler(package)
    scaled = on_device.scale(torch.from_numpy(raw).to(device)).cpu().numpy()
    np.testing.assert_allclose(scaled, plain.scale(raw), rtol=2e-7)
    outputs = random.normal(size=(64, 2)).astype(np.float32)
    back = on_device.unscale(torch.from_numpy(outputs).to(device)).cpu().numpy()
    np.testing.assert_allclose(back, plain.unscale(outputs), rtol=2e-7)
