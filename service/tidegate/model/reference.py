"""The judge: every cell in float64 NumPy, written straight from its equations, slow and obvious.

It shares no code with the kernel or the scaler, so that a mistake in one shows in the other.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.model.package import Package

Array = NDArray[np.float64]


class Predictions(NamedTuple):
    """One row a step, one column a target: in training units and in raw units."""

    scaled: Array
    raw: Array


def predict(package: Package, observations: Array) -> Predictions:
    """Streams `observations` [steps, features] (raw units, none missing) through the model from zero state."""
    scaled = predict_scaled(package, scale(package, observations))
    return Predictions(scaled, unscale(package, scaled))


def predict_scaled(package: Package, inputs: Array) -> Array:
    """The same in training units: inputs [steps, features] to predictions [steps, targets]."""
    manifest = package.manifest
    weights = {name: value.astype(np.float64) for name, value in package.weights.items()}
    h = np.zeros((manifest.layers, manifest.hidden_size))
    c = np.zeros((manifest.layers, manifest.hidden_size))
    predictions = np.empty((len(inputs), len(manifest.targets)))
    for step in range(len(inputs)):
        for layer in range(manifest.layers):
            own = {name.removesuffix(f"_l{layer}"): w for name, w in weights.items() if name.endswith(f"_l{layer}")}
            x = inputs[step] if layer == 0 else h[layer - 1]
            h[layer], c[layer] = _step(package, own, x, h[layer], c[layer])
        predictions[step] = weights["head.weight"] @ h[-1] + weights["head.bias"]
    return predictions


def scale(package: Package, observations: Array) -> Array:
    """(transform(x) - center) / scale, feature by feature."""
    columns = []
    for feature, x in zip(package.manifest.features, np.asarray(observations, np.float64).T, strict=True):
        log1p = feature.scaling.transform == "log1p"
        transformed = np.sign(x) * np.log(1 + np.abs(x)) if log1p else x
        columns.append((transformed - feature.scaling.center) / feature.scaling.scale)
    return np.stack(columns, axis=1)


def unscale(package: Package, predictions: Array) -> Array:
    """The way back, target by target."""
    scalings = {feature.name: feature.scaling for feature in package.manifest.features}
    columns = []
    for target, y in zip(package.manifest.targets, predictions.T, strict=True):
        x = y * scalings[target].scale + scalings[target].center
        log1p = scalings[target].transform == "log1p"
        columns.append(np.sign(x) * (np.exp(np.abs(x)) - 1) if log1p else x)
    return np.stack(columns, axis=1)


def _step(package: Package, w: dict[str, Array], x: Array, h: Array, c: Array) -> tuple[Array, Array]:
    manifest = package.manifest
    activation = np.tanh if manifest.hidden_activation == "tanh" else _identity
    w_x = np.split(w["weight_ih"] @ x, len(w["bias_ih"]) // len(h))
    u_h = np.split(w["weight_hh"] @ h, len(w["bias_hh"]) // len(h))
    b_x, b_h = np.split(w["bias_ih"], len(w_x)), np.split(w["bias_hh"], len(u_h))

    if manifest.cell == "rnn_tanh":
        return activation(w_x[0] + b_x[0] + u_h[0] + b_h[0]), c

    if manifest.cell == "gru":
        r = _sigmoid(w_x[0] + b_x[0] + u_h[0] + b_h[0])
        z = _sigmoid(w_x[1] + b_x[1] + u_h[1] + b_h[1])
        if manifest.gru_reset == "after":
            n = activation(w_x[2] + b_x[2] + r * (u_h[2] + b_h[2]))
        else:
            u_n = np.split(w["weight_hh"], 3)[2]
            n = activation(w_x[2] + b_x[2] + u_n @ (r * h) + b_h[2])
        return (1 - z) * n + z * h, c

    p_i, p_f, p_o = (w.get(f"weight_c{gate}", np.zeros_like(c)) for gate in "ifo")
    i = _sigmoid(w_x[0] + u_h[0] + b_x[0] + b_h[0] + p_i * c)
    f = _sigmoid(w_x[1] + u_h[1] + b_x[1] + b_h[1] + p_f * c)
    g = np.tanh(w_x[2] + u_h[2] + b_x[2] + b_h[2])
    c = f * c + i * g
    o = _sigmoid(w_x[3] + u_h[3] + b_x[3] + b_h[3] + p_o * c)
    return o * activation(c), c


def _sigmoid(x: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * x))  # the same function as 1 / (1 + exp(-x)), and never overflows


def _identity(x: Array) -> Array:
    return x
