"""A row's bits depend on the row alone: not on the tile's size, its place in the tile, or its neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.model.test_cells import CELLS, CPU
from tests.packages import random_package
from tidegate.model.cells import ROWS, Kernel
from tidegate.model.kernels import StepKernel

TILES = [32, 64, 96, 160, 224, 256, 352, 512]
HIDDEN = [1, 32, 33, 64, 256]


def assert_rows_keep_their_bits(kernel: StepKernel, seed: int) -> None:
    """Random rows give, in tiles of every size and in any order, the bits that each has in a tile of copies of it."""
    random = torch.Generator().manual_seed(seed)
    rows = max(TILES)
    x = torch.randn(rows, kernel.inputs, generator=random)
    state = torch.randn(rows, kernel.state_width, generator=random)
    new_state = torch.empty_like(state)
    predictions = kernel(x, state, new_state)
    for row in (0, 1, 17, rows - 1):
        alone = torch.empty(ROWS, kernel.state_width)
        y = kernel(x[row].repeat(ROWS, 1), state[row].repeat(ROWS, 1), alone)
        assert torch.equal(y, predictions[row].expand_as(y))
        assert torch.equal(alone, new_state[row].expand_as(alone))
    for size in TILES:
        chosen = torch.randperm(rows, generator=random)[:size]
        tile = torch.empty(size, kernel.state_width)
        assert torch.equal(kernel(x[chosen], state[chosen], tile), predictions[chosen])
        assert torch.equal(tile, new_state[chosen])


@pytest.mark.parametrize("hidden", HIDDEN)
@pytest.mark.parametrize("fields", CELLS.values(), ids=CELLS)
@torch.inference_mode()
def test_every_cell_and_width(tmp_path: Path, fields: dict[str, Any], hidden: int) -> None:
    """Tiles of 32 to 512 rows, permuted: the same bits for every cell at hidden sizes 1, 32, 33, 64 and 256."""
    package = random_package(tmp_path, hidden=hidden, layers=2, **fields)
    assert_rows_keep_their_bits(Kernel(package, CPU), seed=hidden)


@pytest.mark.parametrize("activation", ["tanh", "identity"])
@pytest.mark.parametrize("targets", [1, 4, 7, 16, 20])
@torch.inference_mode()
def test_every_head(tmp_path: Path, targets: int, activation: str) -> None:
    """The same with heads of 1, 4, 7, 16 and 20 targets, as many or more features, either activation."""
    for index, features in enumerate((targets, 21)):
        package = random_package(
            tmp_path, str(index), features=features, targets=targets, hidden=33, hidden_activation=activation
        )
        assert_rows_keep_their_bits(Kernel(package, CPU), seed=targets)


HEADS: dict[str, dict[str, Any]] = {
    "relu": {"hidden": [33, 8], "activation": "relu"},
    "tanh": {"hidden": [20], "activation": "tanh"},
    "quantile": {"kind": "quantile", "levels": [0.1, 0.5, 0.9], "hidden": [40]},
    "categorical": {"kind": "categorical"},
    "categorical_tanh": {"kind": "categorical", "hidden": [17], "activation": "tanh"},
}


@pytest.mark.parametrize("targets", [3, 16, 21])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@torch.inference_mode()
def test_every_kind_of_head(tmp_path: Path, head: dict[str, Any], targets: int) -> None:
    """The same with perceptrons, quantiles and vocabularies, of whole and of ragged widths."""
    package = random_package(tmp_path, features=targets, targets=targets, hidden=33, head=head)
    assert_rows_keep_their_bits(Kernel(package, CPU), seed=targets)


@torch.inference_mode()
def test_a_large_vocabulary(tmp_path: Path) -> None:
    """The softmax of 2,500 words is a row's own too: one beyond what a vector or a warp holds, of ragged width."""
    package = random_package(tmp_path, features=2501, targets=2501, hidden=8, head={"kind": "categorical"})
    assert_rows_keep_their_bits(Kernel(package, CPU), seed=1)
