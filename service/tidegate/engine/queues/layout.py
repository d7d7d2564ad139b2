"""How a stream's values map to a package's: the order of the columns and their units.

What a client does not send with the values is NaN: outputs always, future covariates unless they come beside them.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tidegate.engine.queues.block import Scope
from tidegate.errors import Reason, TidegateError
from tidegate.model.package import Package

# Names with powers of one digit, multiplied or divided. pint reads more than that as arithmetic: 10**10**10 for ever.
_NAME = r"(?:[^\W\d]|[%°Δ])+(?:\s*(?:\*\*|\^)\s*-?[0-9]|[²³])?"
_UNIT = re.compile(rf"(?:1\s*/\s*)?{_NAME}(?:\s*[*/·]\s*{_NAME}){{0,7}}")
UNIT_LENGTH_MAX = 64


@dataclass(frozen=True)
class Layout:
    """The sent feature j is `values[:, order[j]] * factor[j] + offset[j]`; `plain` when that changes nothing.

    `sent` and `future` are the places of features among the package's, of which there are `features`.
    """

    order: NDArray[np.intp]
    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    sent: NDArray[np.intp]
    future: NDArray[np.intp]
    features: int
    plain: bool

    def apply(self, values: NDArray[np.float64], future: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
        """Values [n, sent] and future covariates to [n, features] in the package's order and units."""
        if not self.plain:
            with np.errstate(over="ignore"):  # what overflows here is not finite in the step either
                values = values[:, self.order] * self.factor + self.offset
        if len(self.sent) == self.features:
            return values
        arranged = np.full((len(values), self.features), np.nan)
        arranged[:, self.sent] = values
        if future is not None:
            arranged[:, self.future] = future
        return arranged


def layout_of(scope: Scope, package: Package) -> Layout:
    """The mapping; raises TidegateError BAD_CONFIG or UNIT_MISMATCH, naming the feature, or TARGETS_DIFFER."""
    manifest = package.manifest
    features = [manifest.features[place] for place in manifest.sent]
    names = tuple(feature.name for feature in features)
    sent = scope.features or names
    if sorted(sent) != sorted(names):
        unknown = sorted(set(sent) - set(names)) or sorted(set(names) - set(sent)) or sorted(sent)
        raise TidegateError(
            Reason.BAD_CONFIG,
            f"features must name each of {', '.join(names)} once; look at {', '.join(unknown)}",
        )
    if scope.targets and scope.targets != manifest.targets:
        raise TidegateError(Reason.TARGETS_DIFFER)
    if scope.units and len(scope.units) != len(sent):
        raise TidegateError(Reason.BAD_CONFIG, f"units must be one a feature: {len(sent)}, not {len(scope.units)}")
    order = np.array([sent.index(name) for name in names], np.intp)
    units = [scope.units[place] if scope.units else "" for place in order]
    linear = [conversion(unit, feature.unit, feature.name) for unit, feature in zip(units, features, strict=True)]
    factor, offset = (np.array(part) for part in zip(*linear, strict=True))
    plain = bool((order == np.arange(len(names))).all() and (factor == 1).all() and (offset == 0).all())
    return Layout(order, factor, offset, manifest.sent, manifest.future, len(manifest.features), plain)


def conversion(unit: str, wanted: str, feature: str) -> tuple[float, float]:
    """Factor and offset from `unit` to `wanted`; "" is `wanted` itself. Raises TidegateError UNIT_MISMATCH."""
    if unit in ("", wanted):
        return 1.0, 0.0
    try:
        if len(unit) > UNIT_LENGTH_MAX or not _UNIT.fullmatch(unit):
            raise ValueError(unit)
        zero, one, two = (_convert(value, unit, wanted) for value in (0.0, 1.0, 2.0))
        if not math.isclose(two - one, one - zero, rel_tol=1e-9):  # decibels and the like; infinite ones are not close
            raise ValueError(unit)
    except Exception as error:  # pint has a dozen kinds; all of them mean "does not convert"
        raise TidegateError(
            Reason.UNIT_MISMATCH, f"{feature} is in {wanted or 'no unit'}, and {unit!r} does not convert to it"
        ) from error
    return one - zero, zero


def load_units() -> None:
    """Makes conversions ready. Slow the first time: for a thread beside the loop."""
    _registry()


@lru_cache(maxsize=256)
def _convert(value: float, unit: str, wanted: str) -> float:
    with np.errstate(all="ignore"):
        return float(_registry().Quantity(value, unit).to(wanted).magnitude)


@lru_cache(maxsize=1)
def _registry() -> Any:
    """pint's registry. The first call takes most of a second."""
    from pint import UnitRegistry  # noqa: PLC0415  # slow to import, and most streams name no other unit

    return UnitRegistry(cache_folder=None)
