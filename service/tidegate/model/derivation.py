"""How a package derives what its cell sees, as plain columns of numbers: for those who do it a step at a time, with
torch (`device_inputs.py`) or in C (`native_inputs.py`). `inputs.py` says the equations and the order of the columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.model.manifest import AGE_COLUMNS, Manifest
from tidegate.model.package import Package

Numbers = NDArray[np.float64]
Places = NDArray[np.int64]
Marks = NDArray[np.bool_]
NUMBER = -1.0  # in place of a category


@dataclass(frozen=True)
class Derivation:
    """Features and targets by their place among the package's features.

    curved [features]: log1p. center and scale [features]: the package's. session_features: those scaled by session;
    instance [the same]: by mean and deviation, not by size alone. value_feature and value_category [columns of the
    features]: whose value it is, as a number, or 1 where it is that category. lagged_features: with lags; lag_entry
    [differences]: which of these, lag_steps and lag_scale: how far back, of what size. arrange [channels, columns]: of
    the whole row, which each channel sees; None: all, there is one. change [targets]: sizes of changes, where the head
    predicts these.
    """

    curved: Marks
    center: Numbers
    scale: Numbers
    session_features: Places
    instance: Marks
    value_feature: Places
    value_category: Numbers
    lagged_features: Places
    lag_entry: Places
    lag_steps: Places
    lag_scale: Numbers
    arrange: Places | None
    targets: Places
    change: Numbers | None

    @property
    def by_features_alone(self) -> bool:
        """Whether the cell sees every feature as a number scaled by package, at once, and no differences."""
        everything = np.array_equal(self.value_feature, np.arange(len(self.center)))
        numbers = (self.value_category == NUMBER).all()
        return bool(everything and numbers and not len(self.session_features) and not len(self.lag_entry))


def derivation_of(package: Package) -> Derivation:
    """That of a package."""
    manifest, names = package.manifest, list(package.feature_names)
    scalings = [feature.scaling for feature in manifest.features]
    by_session = [index for index, scaling in enumerate(scalings) if scaling.by != "package"]
    columns = [
        (index, category)
        for index, feature in enumerate(manifest.features)
        if feature.width
        for category in (range(len(feature.categories)) if feature.categories else [NUMBER])
    ]
    pairs = [
        (entry, step, scale)
        for entry, lags in enumerate(manifest.lags)
        for step, scale in zip(lags.steps, lags.scales, strict=True)
    ]
    changes = manifest.head.change_scales or [1.0] * len(manifest.targets)
    return Derivation(
        curved=np.array([scaling.transform == "log1p" for scaling in scalings], np.bool_),
        center=np.array([scaling.center for scaling in scalings], np.float64),
        scale=np.array([scaling.scale for scaling in scalings], np.float64),
        session_features=np.array(by_session, np.int64),
        instance=np.array([scalings[index].by == "instance" for index in by_session], np.bool_),
        value_feature=np.array([index for index, _ in columns], np.int64),
        value_category=np.array([category for _, category in columns], np.float64),
        lagged_features=np.array([names.index(lags.feature) for lags in manifest.lags], np.int64),
        lag_entry=np.array([entry for entry, _, _ in pairs], np.int64),
        lag_steps=np.array([step for _, step, _ in pairs], np.int64),
        lag_scale=np.array([scale for _, _, scale in pairs], np.float64),
        arrange=_arrangement(manifest) if manifest.channel_independent else None,
        targets=package.target_indices.astype(np.int64),
        change=np.array(changes, np.float64) if manifest.head.output == "change" else None,
    )


def _arrangement(manifest: Manifest) -> Places:
    """int64 [channels, columns]: for each channel, which columns of the whole row it sees, in the order that
    `inputs.py` gives them. Of channel-independent models only."""
    owners: list[str | None] = []
    for feature in manifest.features:
        owners += [feature.name if feature.name in manifest.targets else None] * feature.width
    for lags in manifest.lags:
        owners += [lags.feature if lags.feature in manifest.targets else None] * len(lags.steps)
    owners += [None] * (manifest.calendar_width + len(manifest.ids))
    before_ages = len(owners)
    owners += [target for target in manifest.targets for _ in range(AGE_COLUMNS)] if manifest.ages else []
    values = sum(feature.width for feature in manifest.features)
    rows = []
    for target in manifest.targets:
        columns: list[int] = []
        for part in (range(values), range(values, before_ages), range(before_ages, len(owners))):
            mine = [column for column in part if owners[column] == target]
            placed = False
            for column in part:
                if owners[column] is None:
                    columns.append(column)
                elif not placed:
                    columns += mine
                    placed = True
        rows.append(columns)
    return np.array(rows, np.int64)
