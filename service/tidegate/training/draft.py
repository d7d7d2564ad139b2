"""The manifest of a model before it is trained: what the recipe says, and what is measured on the training part."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from tidegate.errors import ConfigError, PackageError
from tidegate.model.inputs import Inputs
from tidegate.model.manifest import Manifest
from tidegate.model.package import parse_manifest
from tidegate.training.cells import Plan, Values
from tidegate.training.data import Dataset
from tidegate.training.recipe import Recipe

Fields = dict[str, Any]
UNSETTLED = 10  # a session's scale means little before so many steps


def draft_manifest(recipe: Recipe, dataset: Dataset, version: str = "0") -> Fields:
    """The fields of Manifest but metrics, provenance and hash; raises ConfigError."""
    values = dataset.training_values
    columns = list(zip(dataset.names, dataset.columns, values.T, strict=True))
    categorical = recipe.network.head.kind == "categorical"
    if categorical:
        _check_vocabulary(dataset)
    fields: Fields = {
        "name": recipe.name,
        "version": version,
        "description": recipe.description,
        "features": [_feature(recipe, name, plan, column, categorical) for name, plan, column in columns],
        "targets": [name for name, plan, _ in columns if plan.column.role == "target"],
        "calendar": [entry.model_dump() for entry in recipe.inputs.calendar_inputs()],
        "ids": _ids(recipe, dataset),
        "ages": recipe.inputs.ages,
        "feedback": recipe.inputs.feedback,
        "channel_independent": recipe.inputs.channel_independent,
        "scaling_window": recipe.inputs.scaling_window,
        "cell": recipe.network.cell,
        "layers": recipe.network.layers,
        "hidden_size": recipe.network.hidden_size,
        "head": recipe.network.head.manifest_fields(),
        "frequency": recipe.data.frequency,
        "time_zone": recipe.data.time_zone,
        "stamp": recipe.data.stamp,
        "gaps": recipe.gaps.model_dump(),
        **recipe.memory.model_dump(),
    }
    measured = _Measured(checked(fields), dataset)
    fields["lags"] = measured.lags(_lag_steps(recipe, dataset))
    if recipe.network.head.output == "change":
        fields["head"]["change_scales"] = measured.change_scales()
    if not checked(fields).input_width:
        raise ConfigError(
            "recipe: the cell sees nothing: every feature has input = false, and nothing is derived from it; add lags, "
            "or a calendar"
        )
    return fields


def _check_vocabulary(dataset: Dataset) -> None:
    """A categorical head has words; without them its one probability would always be 1."""
    for column in (plan.column for plan in dataset.plans):
        if column.role == "target" and not column.vocabulary:
            raise ConfigError(
                f"recipe: network.head.kind: categorical predicts a vocabulary's words, and {column.name} has none; "
                'give it vocabulary = "auto", or the head another kind'
            )


def checked(fields: Fields) -> Manifest:
    """The manifest; raises ConfigError where the recipe's options do not go together."""
    try:
        return parse_manifest(json.dumps(fields | {"weights_sha256": "0" * 64}).encode())
    except PackageError as error:
        raise ConfigError(f"recipe: {error}") from None


def _feature(recipe: Recipe, name: str, plan: Plan, values: Values, categorical: bool) -> Fields:
    column = plan.column
    fields: Fields = {"name": name, "unit": column.unit, "role": column.role, "input": column.input}
    if column.categories:
        return fields | {"categories": list(plan.words)}
    by = column.scaling or (recipe.inputs.scaling if column.role == "target" else "package")
    if categorical and column.role == "target":
        return fields
    if by != "package":
        return fields | {"scaling": {"by": by, "transform": column.transform}}
    levels = transformed(values[~np.isnan(values)], column.transform == "log1p")
    center, scale = float(levels.mean()), float(levels.std())
    scale = scale if scale > 1e-9 * abs(center) else 1.0  # one that never changes keeps its unit
    rounded = {"center": float(f"{center:.9g}"), "scale": float(f"{scale:.9g}")}
    return fields | {"scaling": {"transform": column.transform, **rounded}}


def transformed(values: Values, log1p: bool) -> Values:
    """sign(x) log(1 + |x|), or as it is."""
    return np.copysign(np.log1p(np.abs(values)), values) if log1p else values


def _ids(recipe: Recipe, dataset: Dataset) -> list[str]:
    if isinstance(recipe.inputs.ids, bool):
        known = [stream.id for stream in dataset.streams if stream.validation > 0]
        return sorted(known) if recipe.inputs.ids else []
    return list(recipe.inputs.ids)


def _lag_steps(recipe: Recipe, dataset: Dataset) -> dict[str, tuple[int, ...]]:
    """The lags of each feature that has some."""
    found = {}
    for name, plan in zip(dataset.names, dataset.columns, strict=True):
        column = plan.column
        default = recipe.inputs.lags if column.role == "target" and not column.vocabulary else ()
        steps = default if column.lags is None else column.lags
        if steps:
            found[name] = steps
    return found


class _Measured:
    """Root mean squares of differences over the training part, in units of the session's scale if it has one."""

    def __init__(self, manifest: Manifest, dataset: Dataset) -> None:
        self._manifest = manifest
        self._names = list(dataset.names)
        self._by_session = [feature.scaling.by != "package" for feature in manifest.features]
        log1p = [feature.scaling.transform == "log1p" for feature in manifest.features]
        self._levels, self._units = [], []
        for stream in dataset.streams:
            part = stream.training_part
            levels = np.stack([transformed(x, log) for x, log in zip(part.T, log1p, strict=True)], axis=1)
            scales = Inputs(manifest).scales(held(levels)).scale
            self._levels.append(levels)
            self._units.append(np.where(self._by_session, scales, 1.0))

    def lags(self, steps: dict[str, tuple[int, ...]]) -> list[Fields]:
        """Entries of the manifest."""
        return [
            {"feature": name, "steps": list(own), "scales": [self._scale(name, step) for step in own]}
            for name, own in steps.items()
        ]

    def change_scales(self) -> list[float]:
        """One a target."""
        return [self._scale(target, 1, ahead=True) for target in self._manifest.targets]

    def _scale(self, name: str, step: int, ahead: bool = False) -> float:
        column = self._names.index(name)
        parts = [np.zeros(0)]
        for levels, units in zip(self._levels, self._units, strict=True):
            if len(levels) > step:
                unit = units[:-step, column] if ahead else units[step:, column]
                difference = (levels[step:, column] - levels[:-step, column]) / unit
                unsettled = min(len(difference) // 2, UNSETTLED) if self._by_session[column] else 0
                parts.append(difference[unsettled:])
        differences = np.concatenate(parts)
        differences = differences[np.isfinite(differences)]
        size = float(np.sqrt(np.mean(differences**2))) if len(differences) else 0.0
        return float(f"{size:.6g}") if size > 0 else 1.0


def held(values: Values, before: Values | None = None) -> Values:
    """Missing values replaced by the column's last one; before there is one by `before` [columns], or without it by the
    column's first, and 0 if it has none."""
    if not len(values):  # a stream that lies in the other parts
        return values
    known = ~np.isnan(values)
    last = np.maximum.accumulate(np.where(known, np.arange(len(values))[:, None], -1), axis=0)
    first = np.where(known.any(axis=0), known.argmax(axis=0), 0)
    filled = np.take_along_axis(values, np.where(last < 0, first, last), axis=0)
    if before is not None:
        filled = np.where(last < 0, before, filled)
    return np.where(np.isnan(filled), 0.0, filled)
