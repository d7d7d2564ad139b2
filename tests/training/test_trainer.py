"""The trainer: what it fits, what it writes, and that it is the network that will be served."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tidegate.errors import ConfigError
from tidegate.model.inputs import Inputs
from tidegate.model.package import Package, load_package
from tidegate.model.reference import predict
from tidegate.training.data import load
from tidegate.training.draft import checked, draft_manifest
from tidegate.training.examples import make_examples
from tidegate.training.fit import Fit, Material, Report
from tidegate.training.losses import Loss
from tidegate.training.network import Network, new_network
from tidegate.training.parallel import World
from tidegate.training.recipe import Recipe, load_recipe, make_recipe
from tidegate.training.rollout import Rollout
from tidegate.training.trainer import train

RECIPE = Path(__file__).parents[2] / "models" / "weather" / "recipe.toml"


@pytest.fixture(autouse=True)
def one_intra_op_thread() -> Iterator[None]:
    """Small networks; other tests run beside these."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def short(recipe: Recipe, **options: Any) -> Recipe:
    """The recipe with another training; it keeps its folder and hash."""
    return recipe.model_copy(update={"training": recipe.training.model_copy(update=options)})


def sine(folder: Path, cell: str = "lstm", gaps: bool = False) -> Recipe:
    """Hours of a noiseless sine, which a recurrent network predicts almost exactly and persistence does not."""
    times = np.datetime64("2024-01-01T00") + np.arange(600).astype("timedelta64[h]")
    levels = 5 + 2 * np.sin(np.arange(600) * 2 * np.pi / 12)
    rows = [f"{time},{level:.6f}" for time, level in zip(times, levels, strict=True)]
    (folder / "sine.csv").write_text("\n".join(["time,level", *rows]))
    (folder / "recipe.toml").write_text(f"""
name = "sine"
[data]
source = "sine.csv"
time = "time"
frequency = "h"
validation = 2024-01-17
test = 2024-01-21
[[features]]
name = "level"
[network]
cell = "{cell}"
hidden_size = 8
[training]
epochs = 40
stretch = 60
learning_rate = 0.02
average = 0.9
checkpoint_seconds = 0.0
gap_share = {0.2 if gaps else 0.0}
""")
    return load_recipe(folder / "recipe.toml")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_what_is_trained_is_what_is_served(tmp_path: Path, cell: str) -> None:
    """For each cell, the package's equations, streamed by the reference, keep the promise of validation on the test."""
    package = train(sine(tmp_path, cell), tmp_path)
    assert package.manifest.metrics["validation"]["relative_mae"] < 0.3
    error = package.manifest.metrics["test"]["level"]
    assert error["mae"] < 0.3 * error["persistence_mae"]


def test_versions_count_up(tmp_path: Path) -> None:
    """Each training writes the next number, and the same seed gives the same weights."""
    recipe = short(sine(tmp_path), epochs=2)
    first, second = train(recipe, tmp_path), train(recipe, tmp_path)
    (tmp_path / "sine" / "draft").mkdir()
    third = train(short(recipe, seed=1), tmp_path)
    assert [package.manifest.version for package in (first, second, third)] == ["1", "2", "3"]
    assert first.manifest.weights_sha256 == second.manifest.weights_sha256 != third.manifest.weights_sha256
    assert load_package(tmp_path / "sine" / "1").fingerprint == first.fingerprint


def test_training_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    """The seed is the recipe's own: the caller's generator goes on as if nothing had happened."""
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    train(short(sine(tmp_path), epochs=1), tmp_path)
    assert torch.equal(torch.rand(3), expected)


def test_time_limit(tmp_path: Path) -> None:
    """Past `seconds_max` the epoch at hand is the last, and what was best is written."""
    package = train(short(sine(tmp_path), epochs=1_000_000, seconds_max=1e-6, refit=False), tmp_path)
    assert package.manifest.metrics["validation"]["epoch"] == 1


def wave(**training: Any) -> tuple[Recipe, pd.DataFrame]:
    """A recipe and 200 steps of its one target."""
    options = {"epochs": 6, "stretch": 20, "checkpoint_seconds": 0.0} | training
    recipe = make_recipe({"name": "wave", "features": [{"name": "level"}], "training": options})
    return recipe, pd.DataFrame({"level": np.sin(np.arange(200) / 3)})


def test_nothing_to_judge_by(tmp_path: Path) -> None:
    """A validation part in which no target is observed is refused before the first epoch."""
    recipe, frame = wave()
    frame.loc[140:169, "level"] = np.nan
    reports: list[Report] = []
    with pytest.raises(ConfigError, match="no target has a value in the validation part"):
        train(recipe, tmp_path, frame, progress=reports.append)
    assert (reports, list(tmp_path.iterdir())) == ([], [])


def test_a_network_that_diverges(tmp_path: Path) -> None:
    """Without one score that is a number nothing is written, and a line says why; nothing is left to go on from."""
    recipe, frame = wave(learning_rate=1e30, gradient_norm_max=1e30, loss="mse")
    reports: list[Report] = []
    with pytest.raises(ConfigError, match="diverged: no epoch has a validation loss that is a number; lower training"):
        train(recipe, tmp_path, frame, progress=reports.append)
    assert len(reports) == 6
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_a_refit_that_diverges(tmp_path: Path) -> None:
    """A value beyond float32 in the validation part breaks only what is trained on it: that too is a line."""
    recipe, frame = wave()
    frame.loc[150, "level"] = 1e39
    with pytest.raises(ConfigError, match="diverged: its weights are no longer numbers"):
        train(recipe, tmp_path, frame)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_score_that_is_no_number_is_never_the_best() -> None:
    """A fit whose later epochs have no score keeps the weights of the best one before them."""
    recipe, frame = wave(average=0.0)
    dataset = load(recipe, frame)
    manifest = checked(draft_manifest(recipe, dataset))
    examples = make_examples(manifest, dataset, torch.device("cpu"))
    settings, rollout = recipe.training, Rollout(manifest, examples, torch.device("cpu"))
    spans, loss = examples.stretches(settings, refit=False), Loss(manifest, settings)
    network = new_network(recipe, manifest, torch.device("cpu"))
    fit = Fit(network, Material(spans, rollout, loss, settings, torch.device("cpu"), World()), 4)
    scores = iter([0.5, math.nan, 0.25, math.nan])
    weights: list[dict[str, torch.Tensor]] = []

    def judge(average: Network) -> float:
        weights.append({name: value.clone() for name, value in average.state_dict().items()})
        return next(scores)

    best = fit.run(judge, lambda report: None).state_dict()
    assert (fit.best_epoch, fit.best_score) == (3, 0.25)
    assert all(torch.equal(best[name], weights[2][name]) for name in best)


def test_a_vocabulary_without_a_word_in_the_test(tmp_path: Path) -> None:
    """A test part in which no word is observed has no loss, and the version is written all the same."""
    words = pd.DataFrame({"word": ["a", "b"] * 85 + [None] * 30})
    features = [{"name": "word", "vocabulary": "auto"}]
    head = {"head": {"kind": "categorical"}}
    options = {"name": "words", "features": features, "network": head, "training": {"epochs": 1, "stretch": 20}}
    assert train(make_recipe(options), tmp_path, words).manifest.metrics["test"] == {}


def test_provenance_names_no_machine(tmp_path: Path) -> None:
    """Where a package comes from is in it: data, recipe, seed, version of torch; but no path of this machine."""
    recipe = short(sine(tmp_path), epochs=1)
    package = train(recipe, tmp_path)
    assert package.manifest.provenance["recipe_sha256"] == recipe.sha256
    assert package.manifest.provenance["data"] == "sine.csv"
    assert str(tmp_path) not in (tmp_path / "sine" / "1" / "model.json").read_text()


def test_weather_in_seconds(tmp_path: Path) -> None:
    """Fifty epochs of the weather recipe, which take a few seconds, already beat persistence on its validation year."""
    package = train(short(load_recipe(RECIPE), epochs=50, refit=False), tmp_path)
    assert package.manifest.metrics["validation"]["relative_mae"] < 0.95


def test_predictions_are_finite_on_any_stream(tmp_path: Path) -> None:
    """What was trained answers raw values far outside of its data with numbers."""
    package = train(short(sine(tmp_path), epochs=1), tmp_path)
    assert np.isfinite(predict(package, np.array([[1e6], [-1e6], [0.0]])).raw).all()


def interrupted(recipe: Recipe, folder: Path, epoch: int) -> None:
    """A training in a process of its own, killed as soon as it has done the epoch."""
    code = (
        "import os, signal, sys; from pathlib import Path; import torch; torch.set_num_threads(1)\n"
        "from tidegate.training.recipe import load_recipe; from tidegate.training.trainer import train\n"
        "last = lambda report: os.kill(os.getpid(), signal.SIGKILL) if report.epoch > int(sys.argv[3]) else None\n"
        "train(load_recipe(Path(sys.argv[1])), Path(sys.argv[2]), progress=last)\n"
    )
    path = recipe.folder / "recipe.toml"
    killed = subprocess.run([sys.executable, "-c", code, path, folder, str(epoch)], check=False)
    assert killed.returncode == -signal.SIGKILL


def test_killed_training_resumes(tmp_path: Path) -> None:
    """A training that is killed goes on to the same weights, to the bit; nothing of it is left but the version."""
    recipe = sine(tmp_path, gaps=True)
    whole = train(recipe, tmp_path / "whole")
    interrupted(recipe, tmp_path / "cut", epoch=3)
    assert [path.name for path in (tmp_path / "cut" / "sine").iterdir()] == [".training"]
    epochs: list[int] = []
    resumed = train(recipe, tmp_path / "cut", progress=lambda report: epochs.append(report.epoch))
    assert epochs[0] == 4
    assert resumed.manifest.weights_sha256 == whole.manifest.weights_sha256
    assert resumed.manifest.metrics == whole.manifest.metrics
    assert [path.name for path in (tmp_path / "cut" / "sine").iterdir()] == ["1"]


def test_a_training_cut_off_in_its_refit_resumes_there(tmp_path: Path) -> None:
    """A first fit that had ended before its last epoch is not run on when the refit is killed in its first one."""
    recipe = short(sine(tmp_path), seconds_max=1e-6)
    whole = train(recipe, tmp_path / "whole")

    def cut(report: Report) -> None:
        if math.isnan(report.score):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, tmp_path / "cut", progress=cut)
    scores: list[float] = []
    resumed = train(recipe, tmp_path / "cut", progress=lambda report: scores.append(report.score))
    assert [score for score in scores if not math.isnan(score)] == []
    assert resumed.manifest.weights_sha256 == whole.manifest.weights_sha256


def cut_off(recipe: Recipe, folder: Path, frame: pd.DataFrame) -> None:
    """A training that ends in its fourth epoch, and leaves the checkpoint of its third."""

    def cut(report: Report) -> None:
        if report.epoch == 4:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        train(recipe, folder, frame, progress=cut)


def first_epoch(recipe: Recipe, folder: Path, frame: pd.DataFrame) -> int:
    """Which epoch a training begins with: 1, or where its checkpoint was."""
    reports: list[Report] = []
    train(recipe, folder, frame, progress=reports.append)
    return reports[0].epoch


def test_trainings_of_one_name_leave_each_other_alone(tmp_path: Path) -> None:
    """A training that is cut off goes on from its own checkpoint, after another of the same name has come and gone."""
    recipe, frame = wave()
    cut_off(recipe, tmp_path, frame)
    assert first_epoch(short(recipe, seed=1), tmp_path, frame) == 1
    assert first_epoch(recipe, tmp_path, frame) == 4
    assert sorted(path.name for path in (tmp_path / "wave").iterdir()) == ["1", "2"]


def test_a_checkpoint_is_of_the_same_data(tmp_path: Path) -> None:
    """Other times, other streams or other parts of the same values are another training."""
    recipe = levels_recipe({"epochs": 6, "stretch": 20, "checkpoint_seconds": 0.0})
    frame = frame_of({"a": np.sin(np.arange(100) / 3), "b": np.cos(np.arange(100) / 3)})
    cut_off(recipe, tmp_path, frame)
    later = frame.assign(time=frame["time"] + pd.Timedelta("12h"))
    renamed = frame.assign(id=frame["id"].map({"a": "c", "b": "d"}))
    for other in (later, renamed):
        assert first_epoch(recipe, tmp_path, other) == 1
    assert first_epoch(recipe, tmp_path, frame) == 4


def test_a_spoilt_checkpoint_is_none(tmp_path: Path) -> None:
    """A file that is no checkpoint, or half of one, is not gone on from, and goes with the training."""
    recipe, frame = wave()
    for spoil in (lambda content: b"nothing\n" * 9, lambda content: content[: len(content) // 2]):
        cut_off(recipe, tmp_path, frame)
        (file,) = (tmp_path / "wave" / ".training").iterdir()
        file.write_bytes(spoil(file.read_bytes()))
        assert first_epoch(recipe, tmp_path, frame) == 1
    assert sorted(path.name for path in (tmp_path / "wave").iterdir()) == ["1", "2"]


def test_a_checkpoint_without_a_key_goes(tmp_path: Path) -> None:
    """One of before checkpoints had keys in their names is left behind by no training that ends."""
    recipe, frame = wave()
    folder = tmp_path / "wave" / ".training"
    folder.mkdir(parents=True)
    (folder / "checkpoint.pt").write_bytes(b"old")
    assert first_epoch(recipe, tmp_path, frame) == 1
    assert [path.name for path in (tmp_path / "wave").iterdir()] == ["1"]


@pytest.mark.slow
def test_two_processes_train_as_well_as_one(tmp_path: Path) -> None:
    """Under torchrun two processes share the batches and write one version, as good as that of one process."""
    recipe = sine(tmp_path)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    arguments = ["-m", "tidegate.training", str(tmp_path / "recipe.toml"), "--models", str(tmp_path / "two")]
    subprocess.run([*command, *arguments], check=True, capture_output=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert [path.name for path in (tmp_path / "two" / "sine").iterdir()] == ["1"]
    two, one = load_package(tmp_path / "two" / "sine" / "1"), train(recipe, tmp_path / "one")
    scores = [package.manifest.metrics["validation"]["loss"] for package in (two, one)]
    assert scores[0] < 1.5 * scores[1] + 1e-3


def frame_of(streams: dict[str, np.ndarray]) -> pd.DataFrame:
    """Hourly levels of several streams."""
    hours = pd.date_range("2024-01-01", periods=len(next(iter(streams.values()))), freq="h")
    parts = [pd.DataFrame({"time": hours, "id": name, "level": values}) for name, values in streams.items()]
    return pd.concat(parts, ignore_index=True)


def levels_recipe(training: dict[str, Any], **inputs: Any) -> Recipe:
    """One target, hourly, of streams told apart by an id; predicts the change."""
    return make_recipe(
        {
            "name": "levels",
            "data": {"time": "time", "frequency": "h", "id": "id"},
            "features": [{"name": "level", "input": inputs.pop("level", True)}],
            "inputs": inputs,
            "network": {"hidden_size": 16, "head": {"output": "change"}},
            "training": {"refit": False, "learning_rate": 0.01, **training},
        }
    )


@pytest.mark.parametrize("scaling", ["running", "instance"])
def test_scales_apart_by_a_thousand(tmp_path: Path, scaling: str) -> None:
    """Two streams of one model, one a thousand times the other: scaled by session, both beat persistence."""
    wave = 3 + np.sin(np.arange(600) * 2 * np.pi / 24)
    recipe = levels_recipe({"epochs": 30, "stretch": 60}, lags=[1, 2, 24], scaling=scaling)
    for name, size in {"small": 2.0, "large": 2000.0}.items():
        package = train(recipe, tmp_path / name, data=frame_of({"small": wave, "large": 1000 * wave}))
        values = size * wave[:, None]
        derived = Inputs(package.manifest).derive(values)
        own = reference_outputs(package, derived.x)
        error = np.abs(derived.restore(own)[300:-1] - values[301:]).mean()
        assert error < 0.5 * np.abs(np.diff(values[300:], axis=0)).mean()


def reference_outputs(package: Package, x: np.ndarray) -> np.ndarray:
    """Outputs [steps, targets] in training units of one stream's inputs [steps, channels, width]."""
    network = Network(package.manifest).eval()
    named = {("" if name.startswith("head") else "layers.") + name: value for name, value in package.weights.items()}
    network.load_state_dict({name: torch.tensor(value) for name, value in named.items()})
    with torch.no_grad():
        outputs: np.ndarray = network(torch.tensor(x, dtype=torch.float32))[0][:, 0].double().numpy()
    return outputs


def test_counter_at_ten_million(tmp_path: Path) -> None:
    """A counter at 1e7 whose steps are 0.1 to 0.3: the model sees its differences and predicts the next ones."""
    steps = 0.2 + 0.1 * np.sin(np.arange(600) * 2 * np.pi / 12)
    counter = 1e7 + np.cumsum(steps)
    recipe = levels_recipe({"epochs": 120, "stretch": 60}, lags=[1, 2, 3, 12], level=False)
    package = train(recipe, tmp_path, data=frame_of({"meter": counter}))
    error = package.manifest.metrics["test"]["level"]
    assert error["mae"] < 0.1 * error["persistence_mae"]


def test_vocabulary(tmp_path: Path) -> None:
    """Words become one-hot targets of a categorical head, which learns a cycle, unknown words bridged by its own."""
    words = np.array(["pizza", "burger", "fries"] * 120, dtype=object)
    words[np.random.default_rng(0).random(360) < 0.2] = None
    recipe = make_recipe(
        {
            "name": "dinner",
            "features": [{"name": "dinner", "vocabulary": "auto"}],
            "network": {"hidden_size": 16, "head": {"kind": "categorical"}},
            "training": {"epochs": 40, "stretch": 30, "learning_rate": 0.02, "refit": False},
        }
    )
    package = train(recipe, tmp_path, data=pd.DataFrame({"dinner": words}))
    assert package.manifest.targets == ("burger", "fries", "pizza")
    assert package.manifest.metrics["test"]["loss"] < 0.1


def test_a_constant_target_has_no_relative_error(tmp_path: Path) -> None:
    """Persistence is right about a constant, so that the mean is of the other targets; without any there is none."""
    wave = np.sin(np.arange(300) / 2)
    options = {"epochs": 1, "refit": False}
    for names, expected in ((("flat", "wave"), {"loss", "epoch", "relative_mae"}), (("flat",), {"loss", "epoch"})):
        recipe = make_recipe({"name": "flat", "features": [{"name": name} for name in names], "training": options})
        package = train(recipe, tmp_path, data=pd.DataFrame({"flat": 3.0, "wave": wave}))
        validation = package.manifest.metrics["validation"]
        assert validation.keys() == expected
        assert validation.get("relative_mae", 0.0) < 100


def test_a_target_without_a_test_has_no_error(tmp_path: Path) -> None:
    """A target that the test part never holds is left out of its errors."""
    steps = np.arange(200.0)
    frame = pd.DataFrame({"a": np.sin(steps), "b": np.where(steps < 160, np.cos(steps), np.nan)})
    recipe = make_recipe(
        {
            "name": "waves",
            "features": [{"name": "a"}, {"name": "b"}],
            "network": {"hidden_size": 4},
            "training": {"epochs": 1, "stretch": 30, "refit": False},
        }
    )
    package = train(recipe, tmp_path, frame)
    assert set(package.manifest.metrics["test"]) == {"a"}
    assert package.manifest.metrics["test"]["a"]["mae"] > 0


def test_feedback_without_recurrence(tmp_path: Path) -> None:
    """A network without recurrence keeps weight_hh at 0; feedback and quantiles train beside it."""
    recipe = make_recipe(
        {
            "name": "plain",
            "features": [{"name": "level"}],
            "inputs": {"feedback": True},
            "network": {"cell": "rnn_tanh", "recurrent": False, "hidden_size": 8, "head": {"kind": "quantile"}},
            "training": {"epochs": 150, "stretch": 30, "learning_rate": 0.02},
        }
    )
    package = train(recipe, tmp_path, data=pd.DataFrame({"level": np.sin(np.arange(300) / 2)}))
    assert not package.weights["weight_hh_l0"].any()
    assert package.manifest.input_width == 4
    assert package.manifest.metrics["validation"]["relative_mae"] < 1.0
