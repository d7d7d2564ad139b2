"""What the cell sees, derived in C (native/inputs.c): the same as `device_inputs.py`, a session at a time.

Bit identity: a session's numbers come from its own row and memory, one after another.
"""

from __future__ import annotations

from ctypes import addressof

import numpy as np
from numpy.typing import NDArray

from tidegate.model.derivation import derivation_of
from tidegate.model.package import Package
from tidegate.native import Inputs, address


class NativeInputs:
    """A package's derivation as the C parts take it: `described`, at `where`. Holds nothing that changes."""

    def __init__(self, package: Package) -> None:
        manifest, derivation = package.manifest, derivation_of(package)
        self._columns: list[NDArray[np.generic]] = []  # whose addresses are told
        channels, arrange = manifest.channels, derivation.arrange
        known = manifest.calendar_width + len(manifest.ids) + manifest.age_width
        columns = len(derivation.value_feature) + len(derivation.lag_entry) + known
        beside = bool(known or manifest.feedback or arrange is not None)
        self.lagged, self.session_features = len(derivation.lagged_features), len(derivation.session_features)
        self.features, self.columns = len(manifest.features), columns
        # Whether they come from the observation and nothing else: not from memory, and not from the time.
        self.alone = not (known or manifest.feedback or self.lagged or self.session_features)
        chances = manifest.head.kind == "categorical"  # which are what they are
        fixed = chances or (not self.session_features and derivation.change is None)
        meaning = [derivation.center[derivation.targets], derivation.scale[derivation.targets]]
        self.meaning = None
        if fixed:
            self.meaning = np.stack([np.zeros_like(meaning[0]), np.ones_like(meaning[1])] if chances else meaning)
        plain = fixed and not beside and derivation.by_features_alone and not derivation.curved.any()
        session_scaled = np.zeros(self.features, np.bool_)
        session_scaled[derivation.session_features] = True
        self.described = Inputs(
            features=self.features,
            curved=self._lies(derivation.curved) if derivation.curved.any() else None,
            center=self._lies(derivation.center),
            scale=self._lies(derivation.scale),
            session_features=self.session_features,
            window=manifest.scaling_window,
            session_feature=self._lies(derivation.session_features),
            instance=self._lies(derivation.instance),
            session_scaled=self._lies(session_scaled),
            values=len(derivation.value_feature),
            value_feature=self._lies(derivation.value_feature),
            value_category=self._lies(derivation.value_category),
            lagged=self.lagged,
            lags=len(derivation.lag_entry),
            lagged_feature=self._lies(derivation.lagged_features),
            lag_entry=self._lies(derivation.lag_entry),
            lag_steps=self._lies(derivation.lag_steps),
            lag_scale=self._lies(derivation.lag_scale),
            calendar=manifest.calendar_width,
            ids=len(manifest.ids),
            ages=manifest.age_width,
            columns=columns,
            arranged=0 if arrange is None else arrange.shape[1],
            arrange=None if arrange is None else self._lies(arrange),
            feedback=manifest.outputs // channels if manifest.feedback else 0,
            targets=len(manifest.targets),
            target_width=manifest.head.width,
            target_feature=self._lies(derivation.targets),
            change=None if derivation.change is None else self._lies(derivation.change),
            plain=int(plain),
            fixed=int(fixed),
        )
        self.where = addressof(self.described)

    def _lies(self, column: NDArray[np.generic]) -> int:
        """Where it lies, from now on."""
        self._columns.append(np.ascontiguousarray(column))
        return address(self._columns[-1])
