"""Requests of what a caller gave: what a message cannot hold is refused here, in words, before anything is sent.

Protobuf says it by ValueError: text that is not UTF-8 (half of a surrogate pair), and numbers out of their range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

from tidegate.errors import Reason, TidegateError

P = ParamSpec("P")
M = TypeVar("M")

# What is wrong when a field cannot be what was given.
REASONS = {
    "model": Reason.MODEL_NOT_FOUND,
    "version": Reason.VERSION_NOT_FOUND,
    "filter": Reason.BAD_FILTER,
    "session_id": Reason.BAD_SESSION_ID,
    "new_session_id": Reason.BAD_SESSION_ID,
    "step": Reason.STEP_NOT_RETAINED,
    "horizon": Reason.BAD_FORECAST,
    "samples": Reason.BAD_FORECAST,
    "seed": Reason.BAD_FORECAST,
    "top_k": Reason.BAD_FORECAST,
    "stop": Reason.BAD_FORECAST,
}


def built(kind: Callable[P, M], *args: P.args, **fields: P.kwargs) -> M:
    """A message of that kind; raises TidegateError with the reason of the first field that it cannot hold."""
    try:
        return kind(*args, **fields)
    except ValueError:
        for name, value in fields.items():
            if name in REASONS and not holds(kind, name, value):
                raise refusal(name, value) from None
        raise


def holds(kind: Callable[..., object], name: str, value: object) -> bool:
    """Whether a field can be that."""
    try:
        kind(**{name: value})
    except ValueError:
        return False
    return True


def refusal(name: str, value: Any) -> TidegateError:
    """What is wrong with a field, and what to give instead."""
    if isinstance(value, str):
        problem = f"{name} is {value!r}, which holds half of a surrogate pair; give text that UTF-8 can hold"
    else:
        problem = f"{name} is {value!r}, which is below 0 or too large; give a number from 0 on"
    return TidegateError(REASONS[name], problem)


def check_ids(ids: Sequence[str]) -> None:
    """Raises BAD_SESSION_ID for the first that no message can hold."""
    try:
        "".join(ids).encode()
    except UnicodeEncodeError:
        name = next(name for name in ids if any("\ud800" <= letter <= "\udfff" for letter in name))
        raise refusal("session_id", name) from None
