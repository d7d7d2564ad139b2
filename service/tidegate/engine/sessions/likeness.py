"""What two versions of a model have in common: whether they remember a session alike, and take and give the same.

A client is not told that the version of its session has changed. So a session moves only where what is sent for it, and
what comes back, mean the same as before: names, units, and their order.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.memory.columns import Schema
from tidegate.engine.queues.lane import Lane
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
    features = [(*_input(feature), feature.scaling.by, feature.scaling.transform) for feature in manifest.features]
    lagged = [lags.feature for lags in manifest.lags]
    cell = manifest.cell, manifest.layers, manifest.hidden_size, manifest.channels, manifest.graph
    return features, manifest.targets, manifest.head.kind, manifest.head.levels, lagged, cell


def interchangeable(old: Manifest, new: Manifest) -> bool:
    """Whether clients send the same to both, and get the same from them."""
    return _face(old) == _face(new)


def _face(manifest: Manifest) -> tuple[object, ...]:
    sent, future = ([_input(manifest.features[place]) for place in part] for part in (manifest.sent, manifest.future))
    return sent, future, manifest.targets


def _input(feature: Feature) -> tuple[object, ...]:
    return feature.name, feature.unit, feature.role, feature.categories


def handed_over(old: Manifest, new: Manifest, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Observations [n, features] of the one, which clients could have sent to the other, as it has them: features that
    nobody sends may stand elsewhere."""
    over = np.full((len(values), len(new.features)), np.nan)
    for old_places, new_places in ((old.sent, new.sent), (old.future, new.future)):
        over[:, new_places] = values[:, old_places]
    return over
