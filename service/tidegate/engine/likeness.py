"""What two versions of a model have in common: whether they remember a session alike, and how their values map."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.columns import Schema
from tidegate.engine.lane import Lane
from tidegate.engine.layout import conversion
from tidegate.errors import Reason, TidegateError
from tidegate.model.manifest import Feature, Manifest

OWN = ("identity", "retained", "retained_from")  # columns that each version counts for itself
_KEPT = "kept"


def memory_of(schema: Schema) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The columns of what a session is now, with types and shapes: neither earlier states, nor kept observations."""
    return {
        column.name: (column.dtype, column.shape)
        for column in schema.travelling
        if not column.past_of and column.name not in OWN and not column.name.startswith(_KEPT)
    }


def alike(old: Lane, new: Lane) -> bool:
    """Whether one goes on with what the other remembers: the same columns, which mean the same."""
    same_columns = memory_of(old.slab.schema) == memory_of(new.slab.schema)
    return same_columns and _meaning(old.package.manifest) == _meaning(new.package.manifest)


def _meaning(manifest: Manifest) -> tuple[object, ...]:
    """What the numbers in those columns stand for."""
    features = [
        (*_input(feature), feature.unit, feature.scaling.by, feature.scaling.transform) for feature in manifest.features
    ]
    lagged = [lags.feature for lags in manifest.lags]
    cell = manifest.cell, manifest.layers, manifest.hidden_size, manifest.channels, manifest.graph
    return features, manifest.targets, manifest.head.kind, manifest.head.levels, lagged, cell


def _input(feature: Feature) -> tuple[object, ...]:
    return feature.name, feature.role, feature.categories


@dataclass(frozen=True)
class Translation:
    """From one version's features to another's: place `places[j]` is `values[:, order[j]] * factor[j] + offset[j]`, and
    the others of its `features` are not sent. `static`: which of the places are the session's own."""

    places: NDArray[np.intp]
    order: NDArray[np.intp]
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    static: NDArray[np.intp]
    features: int

    def apply(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Raw values [n, features] of the one to [n, features] of the other."""
        translated = np.full((len(values), self.features), np.nan)
        with np.errstate(over="ignore"):  # what overflows here is not finite in the step either
            translated[:, self.places] = values[:, self.order] * self.factor + self.offset
        return translated


def translation(old: Manifest, new: Manifest) -> Translation:
    """How values map; raises TidegateError PACKAGE_MISMATCH where the features are not the same."""
    known = {feature.name: place for place, feature in enumerate(old.features) if feature.role != "output"}
    wanted = {feature.name: place for place, feature in enumerate(new.features) if feature.role != "output"}
    differ = sorted(known.keys() ^ wanted.keys())
    differ += [name for name in known.keys() & wanted.keys() if _kind(old, known[name]) != _kind(new, wanted[name])]
    if differ:
        raise TidegateError(
            Reason.PACKAGE_MISMATCH, f"versions {old.version} and {new.version} differ in features: {', '.join(differ)}"
        )
    linear = [_linear(old.features[known[name]], new.features[place]) for name, place in wanted.items()]
    factor, offset = (np.array(part) for part in zip(*linear, strict=True))
    static = [place for place in wanted.values() if new.features[place].role == "static"]
    return Translation(
        places=np.array(list(wanted.values()), np.intp),
        order=np.array([known[name] for name in wanted], np.intp),
        factor=factor,
        offset=offset,
        static=np.array(static, np.intp),
        features=len(new.features),
    )


def _kind(manifest: Manifest, place: int) -> tuple[object, ...]:
    """What clients know of a feature beside its name and unit: target or past covariate is the model's own affair."""
    feature = manifest.features[place]
    return feature.role if feature.role in ("static", "future") else "", feature.categories


def _linear(old: Feature, new: Feature) -> tuple[float, float]:
    """Factor and offset of one feature; where one names no unit, it is taken for the other's."""
    if not new.unit:
        return 1.0, 0.0
    try:
        return conversion(old.unit, new.unit, new.name)
    except TidegateError as error:
        raise TidegateError(Reason.PACKAGE_MISMATCH, error.problem) from None
