"""State dicts of torch: what is served predicts as the module that they came from; the rest is refused by name."""

from __future__ import annotations

import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.importers.command import call, imported, refusal
from tidegate.training.importers.agreement import served_predictions

INPUTS, HIDDEN, OUTPUTS, TOLERANCE = 5, 24, 3, 1e-5


class Net(nn.Module):
    """A recurrent stack and a head, as anybody writes them."""

    def __init__(self, cell: type[nn.Module], head: nn.Module, **options: Any) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = cell(INPUTS, HIDDEN, **options)
        self.out = head

    def forward(self, x: Tensor) -> Tensor:
        """[steps, rows, inputs] to [steps, rows, outputs]."""
        predictions: Tensor = self.out(self.cell(x)[0])
        return predictions


def linear() -> nn.Module:
    return nn.Linear(HIDDEN, OUTPUTS)


def mlp(activation: type[nn.Module]) -> nn.Module:
    return nn.Sequential(nn.Linear(HIDDEN, 9), activation(), nn.Linear(9, 7), activation(), nn.Linear(7, OUTPUTS))


NETS: dict[str, tuple[Net, tuple[str, ...]]] = {
    "lstm of two layers": (Net(nn.LSTM, linear(), num_layers=2), ()),
    "gru": (Net(nn.GRU, linear()), ()),
    "rnn without biases": (Net(nn.RNN, linear(), bias=False), ()),
    "relu mlp": (Net(nn.LSTM, mlp(nn.ReLU)), ()),
    "tanh mlp": (Net(nn.GRU, mlp(nn.Tanh)), ("--activation", "tanh")),
}


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize(("net", "options"), NETS.values(), ids=NETS)
def test_an_import_predicts_as_its_module(tmp_path: Path, net: Net, options: tuple[str, ...], suffix: str) -> None:
    """The written package gives what the very module that was saved gives, within 1e-5 over 100 steps."""
    file = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save({"epoch": 3, "state_dict": net.state_dict()}, file)
    else:
        safetensors.torch.save_file(net.state_dict(), file)
    package = imported("torch", file, *options)
    x = np.random.default_rng(2).standard_normal((100, 4, INPUTS)).astype(np.float32)
    with torch.no_grad():
        expected = net(torch.from_numpy(x)).numpy()
    assert np.abs(expected).max() > 0.05  # the comparison is of something
    np.testing.assert_allclose(served_predictions(package, x), expected, rtol=0, atol=TOLERANCE)


def test_features_and_targets_get_names_and_roles(tmp_path: Path) -> None:
    """A target that is a feature is an ordinary one; one that is not is an output; a second import is version 2."""
    file = tmp_path / "net.pt"
    torch.save(NETS["gru"][0].state_dict(), file)
    names = ("--features", "a,b,c,d,e", "--targets", "b,rain,e", "--unit", "rain=mm", "--frequency", "h")
    manifest = imported("torch", file, *names).manifest
    roles = {feature.name: (feature.role, feature.unit) for feature in manifest.features}
    assert roles == {
        "a": ("past", ""),
        "b": ("target", ""),
        "c": ("past", ""),
        "d": ("past", ""),
        "e": ("target", ""),
        "rain": ("output", "mm"),
    }
    assert (manifest.targets, manifest.frequency) == (("b", "rain", "e"), "h")
    assert manifest.provenance["agreement"]["error_max"] <= TOLERANCE
    assert call("torch", file)[0] == 0
    assert sorted(path.name for path in (tmp_path / "models" / "net").iterdir()) == ["1", "2"]


def test_code_in_a_pickle_is_named_and_not_run(tmp_path: Path) -> None:
    """A pickle that would make a folder when it is loaded is refused, with what it would have called, and does not."""
    trace = tmp_path / "it-ran"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, (str(trace),))

    file = tmp_path / "trap.pt"
    torch.save(OrderedDict(NETS["gru"][0].state_dict()) | {"extra": Trap()}, file)
    line = refusal("torch", file)
    assert "which was not run" in line
    assert "mkdir" in line
    plain = tmp_path / "plain.pt"
    plain.write_bytes(pickle.dumps(Trap()))
    refusal("torch", plain)
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # the trap works


REFUSED: dict[str, tuple[dict[str, Tensor], str]] = {
    "bidirectional": (Net(nn.LSTM, nn.Linear(2 * HIDDEN, 2), bidirectional=True).state_dict(), "bidirectional"),
    "a projection": (Net(nn.LSTM, nn.Linear(8, 2), proj_size=8).state_dict(), "projection"),
    "no head": (nn.GRU(INPUTS, HIDDEN).state_dict(), "no linear layer"),
    "no recurrent layer": (linear().state_dict(), "there is no nn.LSTM, GRU or RNN"),
    "something between": (Net(nn.RNN, nn.Sequential(nn.LayerNorm(HIDDEN), linear())).state_dict(), "out.0.weight"),
    "a layer before": (
        nn.ModuleDict({"into": nn.Linear(8, 8), "cell": nn.LSTM(8, 8), "out": nn.Linear(8, 1)}).state_dict(),
        "into.weight: stands before the recurrent layers",
    ),
    "an embedding before": (
        nn.ModuleDict({"words": nn.Embedding(9, 9), "cell": nn.GRU(9, 9), "out": nn.Linear(9, 9)}).state_dict(),
        "words.weight: stands before the recurrent layers",
    ),
    "too long a head": (Net(nn.GRU, nn.Sequential(*[nn.Linear(HIDDEN, HIDDEN)] * 6)).state_dict(), "6 linear layers"),
    "not finite": (nn.GRU(INPUTS, HIDDEN).state_dict() | {"out.bias": torch.tensor([torch.nan])}, "not finite"),
}


@pytest.mark.parametrize(("tensors", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_served_is_named(tmp_path: Path, tensors: dict[str, Tensor], problem: str) -> None:
    """Refused in one line that names the tensor or what it means, and nothing is written."""
    file = tmp_path / "net.pt"
    torch.save(tensors, file)
    assert problem in refusal("torch", file)


def test_a_stack_lacks_one_bias(tmp_path: Path) -> None:
    """Biases are all there, or none is: a checkpoint that lost one is refused by its name."""
    tensors = dict(NETS["lstm of two layers"][0].state_dict())
    del tensors["cell.bias_hh_l1"]
    torch.save(tensors, tmp_path / "net.pt")
    assert "cell.bias_hh_l1: is missing, but other biases are there" in refusal("torch", tmp_path / "net.pt")


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("net.pt", b"hello", "is no file of torch.save; save the weights alone"),
        ("net.pt", b"", "is empty"),
        ("net.onnx", b"\x08\x08", "is an ONNX file; give it to `tidegate import onnx`"),
    ],
)
def test_another_kind_of_file(tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    """What torch.save did not write is said to be that, with what to do."""
    (tmp_path / name).write_bytes(content)
    assert problem in refusal("torch", tmp_path / name)


UNSURE: dict[str, tuple[dict[str, nn.Module], str]] = {
    "two orders": (
        {"cell": nn.LSTM(3, 8), "proj": nn.Linear(8, 8), "fc": nn.Linear(8, 8), "top": nn.Linear(8, 1)},
        "fc.weight: has no certain place: fc then proj then top, or proj then fc then top",
    ),
    "a layer before": (
        {"into": nn.Linear(8, 8), "cell": nn.LSTM(8, 8), "out": nn.Linear(8, 1)},
        "into.weight: has no certain place: it may stand before",
    ),
    "a projection before": (
        {"cell": nn.LSTM(4, 16), "into": nn.Linear(12, 4), "out": nn.Linear(16, 12)},
        "into.weight: has no certain place: it may stand before",
    ),
    "an embedding before": (
        {"words": nn.Embedding(9, 9), "cell": nn.GRU(9, 9), "zout": nn.Linear(9, 3)},
        "words.weight: has no certain place: it may stand before",
    ),
}


@pytest.mark.parametrize(("layers", "problem"), UNSURE.values(), ids=UNSURE)
def test_what_a_file_sorted_by_name_leaves_open(tmp_path: Path, layers: dict[str, nn.Module], problem: str) -> None:
    """A .safetensors file whose names and shapes allow more than one network is refused, with what they allow."""
    file = tmp_path / "net.safetensors"
    safetensors.torch.save_file(nn.ModuleDict(layers).state_dict(), file)
    assert problem in refusal("torch", file)


ORDINARY: dict[str, tuple[str, dict[str, nn.Module], tuple[str, ...]]] = {
    "one value": (
        ".safetensors",
        {"cell": nn.LSTM(1, 16), "dense": nn.Linear(16, 8), "out": nn.Linear(8, 1)},
        ("dense", "out"),
    ),
    "as many hidden values as inputs": (
        ".safetensors",
        {"cell": nn.LSTM(8, 16), "dense": nn.Linear(16, 8), "out": nn.Linear(8, 3)},
        ("dense", "out"),
    ),
    "the head first": (".pt", {"head": nn.Linear(16, 3), "cell": nn.LSTM(5, 16)}, ("head",)),
    "the head first, of one value": (".pt", {"head": nn.Linear(16, 1), "cell": nn.GRU(1, 16)}, ("head",)),
    "a head of two first": (
        ".pt",
        {"dense": nn.Linear(16, 8), "out": nn.Linear(8, 2), "cell": nn.LSTM(5, 16)},
        ("dense", "out"),
    ),
}


@pytest.mark.parametrize(("suffix", "layers", "head"), ORDINARY.values(), ids=ORDINARY)
def test_a_layer_that_feeds_no_stack_is_of_the_head(
    tmp_path: Path, suffix: str, layers: dict[str, nn.Module], head: tuple[str, ...]
) -> None:
    """Whatever their names are, and wherever a module defines its head, layers that cannot stand before the recurrent
    ones are taken for the head."""
    net, file = nn.ModuleDict(layers), tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), file)
    else:
        safetensors.torch.save_file(net.state_dict(), file)
    package = imported("torch", file)
    cell = net["cell"]
    assert isinstance(cell, nn.RNNBase)
    x = torch.randn((20, 2, cell.input_size), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = net[head[0]](cell(x)[0])
        for name in head[1:]:
            expected = net[name](expected.relu())
    np.testing.assert_allclose(served_predictions(package, x.numpy()), expected.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_layers_of_one_size_are_in_their_order(tmp_path: Path, suffix: str) -> None:
    """Layers that could be exchanged stand as the module defines them, or as the numbers in their names say."""
    torch.manual_seed(3)
    names = ("fc1", "fc2", "fc10") if suffix == ".safetensors" else ("proj", "fc", "again")
    layers = {name: nn.Linear(HIDDEN, HIDDEN) for name in names}
    net = nn.ModuleDict({"cell": nn.GRU(INPUTS, HIDDEN), **layers})
    file = tmp_path / f"net{suffix}"
    if suffix == ".pt":
        torch.save(net.state_dict(), file)
    else:
        safetensors.torch.save_file(net.state_dict(), file)
    package = imported("torch", file)
    x = torch.randn(20, 2, INPUTS)
    with torch.no_grad():
        first, second, third = layers.values()
        expected = third(second(first(net["cell"](x)[0]).relu()).relu())
    np.testing.assert_allclose(served_predictions(package, x.numpy()), expected.numpy(), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("holder", ["model_state_dict", "state_dict", "model"])
def test_a_checkpoint_with_other_tensors(tmp_path: Path, holder: str) -> None:
    """The state dict is found beside a loss, or a moving average, that is a tensor itself."""
    held = {holder: NETS["gru"][0].state_dict(), "loss": torch.tensor(0.3), "epoch": 3}
    torch.save(held, tmp_path / "net.pt")
    assert imported("torch", tmp_path / "net.pt").manifest.cell == "gru"


@pytest.mark.parametrize(
    ("net", "assumed"),
    [
        (
            "rnn without biases",
            [
                "nn.RNN with its default nonlinearity, tanh",
                "forward takes cell, out in this order and does nothing else",
            ],
        ),
        (
            "relu mlp",
            ["forward takes cell, out.0, relu, out.2, relu, out.4 in this order and does nothing else"],
        ),
        ("gru", ["forward takes cell, out in this order and does nothing else"]),
    ],
)
def test_what_was_assumed_is_said(tmp_path: Path, net: str, assumed: list[str]) -> None:
    """What a state dict does not hold, and agreement thus cannot show, is said when the import is done."""
    torch.save(NETS[net][0].state_dict(), tmp_path / "net.pt")
    _, output = call("torch", tmp_path / "net.pt")
    lines = [line for line in output.splitlines() if line.startswith("assumed")]
    assert lines == [f"assumed: {what}, which the file does not say" for what in assumed]


def test_wrong_names_are_wrong_usage(tmp_path: Path) -> None:
    """Names that are too few, or a unit of nobody, exit with 2 and say how many there are."""
    file = tmp_path / "net.pt"
    torch.save(NETS["gru"][0].state_dict(), file)
    for options, problem in ((("--features", "a,b"), "the network has 5"), (("--unit", "z=m"), "there is no 'z'")):
        code, output = call("torch", file, *options)
        assert code == 2
        assert problem in output
