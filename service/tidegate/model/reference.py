"""The judge: every cell and head in float64 NumPy, written straight from their equations, slow and obvious.

It shares no code with the kernel, so that a mistake in one shows in the other. Derived inputs are those of
`inputs.Inputs`, which says what they are. A foreign graph is judged by its importer, not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tidegate.model.inputs import Inputs
from tidegate.model.package import Package, head_prefixes

Array = NDArray[np.float64]


class Predictions(NamedTuple):
    """One row a step, [steps, outputs]: in training units and in raw units (probabilities are both)."""

    scaled: Array
    raw: Array


def predict(
    package: Package,
    observations: Array,
    times: NDArray[np.int64] | None = None,
    session_id: str = "",
    ages: NDArray[np.uint16] | None = None,
) -> Predictions:
    """Streams `observations` [steps, features] (raw units, none missing) through the model from zero state.

    `times` int64 [steps] in ns since 1970 UTC. Where they are missing, steps date themselves (`model/calendar.py`).
    `ages` [steps, targets] as in `Inputs.derive`.
    """
    derived = Inputs(package.manifest).derive(observations, times, session_id, ages)
    scaled = predict_derived(package, derived.x)
    return Predictions(scaled, scaled if package.manifest.head.kind == "categorical" else derived.restore(scaled))


def predict_scaled(package: Package, inputs: Array) -> Array:
    """Of a model of one channel, in training units: inputs [steps, input width] to outputs [steps, outputs]."""
    return predict_derived(package, inputs[:, None, :])


def predict_derived(package: Package, x: Array) -> Array:
    """The same of any model: x [steps, channels, input width], in which feedback is filled in, to [steps, outputs]."""
    manifest = package.manifest
    weights = {name: value.astype(np.float64) for name, value in package.weights.items()}
    shape = (manifest.channels, manifest.layers, manifest.hidden_size)
    h, c = np.zeros(shape), np.zeros(shape)
    outputs = np.zeros((len(x), manifest.channels, manifest.outputs // manifest.channels))
    for step in range(len(x)):
        for channel in range(manifest.channels):
            row = x[step, channel].copy()
            if manifest.feedback and step > 0:
                last = outputs[step - 1, channel]
                row[-len(last) :] = last
            for layer in range(manifest.layers):
                own = {name.removesuffix(f"_l{layer}"): w for name, w in weights.items() if name.endswith(f"_l{layer}")}
                below = row if layer == 0 else h[channel, layer - 1]
                h[channel, layer], c[channel, layer] = _step(package, own, below, h[channel, layer], c[channel, layer])
            outputs[step, channel] = _head(package, weights, h[channel, -1])
    return outputs.reshape(len(x), -1)


def scale(package: Package, observations: Array) -> Array:
    """(transform(x) - center) / scale of the package, feature by feature: the inputs of a model that derives none."""
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


def _head(package: Package, weights: Mapping[str, Array], h: Array) -> Array:
    """One row's outputs from the last layer's h."""
    head = package.manifest.head
    *hidden, last = head_prefixes(package.manifest)
    y = h
    for prefix in hidden:
        y = weights[f"{prefix}.weight"] @ y + weights[f"{prefix}.bias"]
        y = np.tanh(y) if head.activation == "tanh" else np.maximum(y, 0)
    y = weights[f"{last}.weight"] @ y + weights[f"{last}.bias"]
    if head.kind == "categorical":
        odds: Array = np.exp(y - y.max())
        y = odds / odds.sum()
    return y


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
