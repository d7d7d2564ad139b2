"""A package over many steps of one session at once: inputs derived for all of them, cell and head as one sequence.

Equal to stepping within the rounding of float32; which bits come out may depend on how the steps are cut into calls.
torch's own LSTM, GRU and RNN do it for the cells that they know (their weights have the same names and order as a
package's); peepholes, an identity activation and the GRU that resets before its product are looped here over the
pointwise part, the products with the inputs having been made for all steps at once. Feedback, and what is inside a
foreign graph, cannot be taken so: `takes` says whether a package can.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import linear

from tidegate.model.ages import Ages
from tidegate.model.calendar import Calendar
from tidegate.model.device_inputs import Clock, Observed
from tidegate.model.manifest import Manifest
from tidegate.model.package import Package, head_prefixes
from tidegate.model.sequence_inputs import SequenceInputs

Memory = Mapping[str, Tensor]
Layers = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # x [T, C, inputs], state [C, width] -> h [T, C, H], state
CELLS = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn_tanh": torch.nn.RNN}


def takes(manifest: Manifest) -> bool:
    """Whether steps of the model can be taken together. An output's value is the session's own prediction: where the
    session scales by it, too, each step hangs on the one before."""
    outputs = [feature.scaling.by for feature in manifest.features if feature.role == "output"]
    return manifest.graph is None and not manifest.feedback and set(outputs) <= {"package"}


class Sequence:
    """Steps one session of a package through many observations. Holds nothing that changes."""

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest = package.manifest
        self._device, self._manifest = device, manifest
        self._inputs = SequenceInputs(package, device)
        self._calendar, self._ages = Calendar(manifest), Ages(manifest)
        self._layers = _layers(package, device)
        self._head = _Head(package, device)

    def run(
        self,
        observations: NDArray[np.float64],
        times: NDArray[np.int64],
        seen: int,
        identity: int,
        memory: Memory,
        slot: int,
    ) -> tuple[NDArray[np.float64], int | None]:
        """Takes `observations` [T, features] (raw, complete), the session in row `slot` of the device columns `memory`
        having seen `seen` steps; `times` int64 [T] as in StepBatch. No target is missing in them.

        Returns the raw outputs [T, outputs] and None; or the first step that is not finite, and `memory` is as it was.
        """
        with torch.inference_mode():
            steps = np.arange(seen, seen + len(times))
            clock = Clock(torch.from_numpy(steps).to(self._device), *self._known(times, steps, identity))
            place = torch.tensor([slot], device=self._device)
            seen_by_cell = self._inputs.observe(torch.from_numpy(observations).to(self._device), clock, memory, place)
            x = seen_by_cell.x.view(len(times), self._manifest.channels, -1)
            before = memory["state"][slot].view(self._manifest.channels, -1)
            h, after = self._layers(x, before)
            outputs = self._head(h).reshape(len(times), -1)
            raw = self._inputs.restore(outputs, seen_by_cell.base, seen_by_cell.unit)
            failed = _not_finite(seen_by_cell, raw, h, after)
            if failed is None:
                memory["state"][slot] = after.reshape(-1)
                self._inputs.remember(seen_by_cell, outputs, clock.seen, memory, place)
            return raw.cpu().numpy(), failed

    def _known(
        self, times: NDArray[np.int64], steps: NDArray[np.int64], identity: int
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """Calendar, identity and ages of a Clock."""
        calendar = identities = ages = None
        if self._calendar.width:
            calendar = torch.from_numpy(self._calendar.columns(times, steps + 1)).to(self._device)
        if self._manifest.ids:
            identities = torch.full((len(steps),), identity, dtype=torch.int32, device=self._device)
        if self._ages.width:
            ages = torch.from_numpy(self._ages.columns(None, len(steps))).to(self._device)
        return calendar, identities, ages


def _not_finite(seen: Observed, raw: Tensor, h: Tensor, state: Tensor) -> int | None:
    """The first step of which something is not finite; see TorchStepper."""
    checked = [seen.x.reshape(len(raw), -1), raw.float(), h.reshape(len(raw), -1)]
    checked += [] if seen.scale is None else [seen.scale.flatten(1)]
    good = torch.stack([torch.isfinite(tensor).all(1) for tensor in checked]).all(0)
    good[-1] &= torch.isfinite(state).all()
    return None if bool(good.all()) else int((~good).nonzero()[0])


class _Head:
    """h [T, C, hidden size] to outputs [T, C, outputs] in training units; see `cells.py`."""

    def __init__(self, package: Package, device: torch.device) -> None:
        head = package.manifest.head
        self._activation = torch.tanh if head.activation == "tanh" else torch.relu
        self._softmax = head.kind == "categorical"
        self._affine = [
            (_tensor(package, f"{prefix}.weight", device), _tensor(package, f"{prefix}.bias", device))
            for prefix in head_prefixes(package.manifest)
        ]

    def __call__(self, h: Tensor) -> Tensor:
        *hidden, last = self._affine
        for weight, bias in hidden:
            h = self._activation(linear(h, weight, bias))
        y = linear(h, *last)
        return y.softmax(-1) if self._softmax else y


def _layers(package: Package, device: torch.device) -> Layers:
    """All layers of a package."""
    manifest = package.manifest
    known = manifest.cell in CELLS and manifest.hidden_activation == "tanh"
    if known and (manifest.cell != "gru" or manifest.gru_reset == "after"):
        return _Known(package, device)
    return _Looped(package, device)


class _Known:
    """Cells that torch has."""

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest = package.manifest
        self._shape = manifest.layers, manifest.hidden_size
        self._lstm = manifest.cell == "lstm"
        self._cell = CELLS[manifest.cell](manifest.input_width, manifest.hidden_size, manifest.layers).to(device)
        names = self._cell.state_dict()
        self._cell.load_state_dict({name: _tensor(package, name, device) for name in names})
        self._cell.requires_grad_(False)

    def __call__(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """A row of state is h_l0 | c_l0 | h_l1 | …; torch wants h and c apart, layer by layer."""
        layers, hidden = self._shape
        parts = state.view(len(state), layers, -1, hidden).permute(2, 1, 0, 3).contiguous()  # [h and c, layers, C, H]
        h, after = self._cell(x, (parts[0], parts[1]) if self._lstm else parts[0])
        stacked = torch.stack(after if self._lstm else (after,))
        return h, stacked.permute(2, 1, 0, 3).reshape(state.shape)


class _Looped:
    """The others: the equations of `cells.py`, one layer after another."""

    def __init__(self, package: Package, device: torch.device) -> None:
        manifest = package.manifest
        self._hidden, self._tanh = manifest.hidden_size, manifest.hidden_activation == "tanh"
        self._reset_after = manifest.gru_reset == "after"
        self._peepholes = manifest.cell == "lstm_peephole"
        self._step = {"gru": self._gru, "rnn_tanh": self._rnn}.get(manifest.cell, self._lstm)
        self._weights = [
            {
                name.removesuffix(f"_l{layer}"): _tensor(package, name, device)
                for name in package.weights
                if name.endswith(f"_l{layer}")
            }
            for layer in range(manifest.layers)
        ]

    def __call__(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        after: list[Tensor] = []
        for layer, before in zip(self._weights, state.chunk(len(self._weights), 1), strict=True):
            products = linear(x, layer["weight_ih"], layer["bias_ih"])
            kept, steps = torch.split(before, self._hidden, 1), []
            for product in products.unbind():
                kept = self._step(layer, product, *kept)
                steps.append(kept[0])
            x = torch.stack(steps)
            after += kept
        return x, torch.cat(after, 1)

    def _activated(self, y: Tensor) -> Tensor:
        return torch.tanh(y) if self._tanh else y

    def _lstm(self, w: dict[str, Tensor], product: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, ...]:
        i, f, g, o = (product + linear(h, w["weight_hh"], w["bias_hh"])).chunk(4, 1)
        if self._peepholes:
            i, f = i + w["weight_ci"] * c, f + w["weight_cf"] * c
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        if self._peepholes:
            o = o + w["weight_co"] * c
        return torch.sigmoid(o) * self._activated(c), c

    def _gru(self, w: dict[str, Tensor], product: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        recurrent = linear(h, w["weight_hh"][: 2 * self._hidden], w["bias_hh"][: 2 * self._hidden])
        r, z = torch.sigmoid(product[:, : 2 * self._hidden] + recurrent).chunk(2, 1)
        weight, bias = w["weight_hh"][2 * self._hidden :], w["bias_hh"][2 * self._hidden :]
        inner = r * linear(h, weight, bias) if self._reset_after else linear(r * h, weight, bias)
        n = self._activated(product[:, 2 * self._hidden :] + inner)
        return (n + z * (h - n),)

    def _rnn(self, w: dict[str, Tensor], product: Tensor, h: Tensor) -> tuple[Tensor, ...]:
        return (self._activated(product + linear(h, w["weight_hh"], w["bias_hh"])),)


def _tensor(package: Package, name: str, device: torch.device) -> Tensor:
    return torch.tensor(package.weights[name], dtype=torch.float32, device=device)
