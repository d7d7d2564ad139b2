"""The network that is trained: recurrent layers and a head, with torch's names, which are the package's."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from tidegate.model.manifest import Manifest
from tidegate.model.package import Weights
from tidegate.training.recipe import Recipe

LAYERS = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
State = Any  # of torch's layers: a Tensor, for an LSTM a pair of them, None for zeros


class Network(nn.Module):
    """Recurrent layers and a head; inputs [steps, rows, width] in training units."""

    def __init__(self, manifest: Manifest, dropout: float = 0.0, recurrent: bool = True) -> None:
        super().__init__()
        between = dropout if manifest.layers > 1 else 0.0
        layers = LAYERS[manifest.cell]
        self.layers = layers(manifest.input_width, manifest.hidden_size, manifest.layers, dropout=between)
        self.head = _head(manifest)
        self._dropout = dropout
        if not recurrent:
            for name, parameter in self.layers.named_parameters():
                if name.startswith("weight_hh"):
                    parameter.requires_grad_(False).zero_()

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Outputs [steps, rows, outputs of a row], and the state after the last step."""
        hidden, state = self.layers(x, state)
        return self.head(nn.functional.dropout(hidden, self._dropout, self.training)), state

    def weights(self) -> Weights:
        """Named as in a package."""
        named = self.state_dict().items()
        return {name.removeprefix("layers."): value.detach().cpu().numpy().copy() for name, value in named}


def _head(manifest: Manifest) -> nn.Module:
    """`head`, or for an MLP `head.0`, `head.2`, …"""
    widths = (manifest.hidden_size, *manifest.head.hidden, manifest.outputs // manifest.channels)
    if len(widths) == 2:
        return nn.Linear(*widths)
    modules: list[nn.Module] = []
    for before, after in pairwise(widths):
        modules += [nn.Linear(before, after), ACTIVATIONS[manifest.head.activation]()]
    return nn.Sequential(*modules[:-1])


def new_network(recipe: Recipe, manifest: Manifest, device: torch.device) -> Network:
    """With torch's initial weights, by the global generator."""
    return Network(manifest, recipe.training.dropout, recipe.network.recurrent).to(device)


def detached(state: State) -> State:
    """The same numbers; gradients stop here."""
    return tuple(part.detach() for part in state) if isinstance(state, tuple) else state.detach()
