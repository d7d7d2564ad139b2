"""Requests of what a caller gave: what a message cannot hold is refused here, in words, before anything is sent.

Protobuf says it by ValueError, of text that is not UTF-8 (half of a surrogate pair) and of numbers out of their range,
and by TypeError, of what is no text or no number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

from tidegate.errors import Reason, TidegateError
from tidegate.wire.stubs import session_pb2

P = ParamSpec("P")
M = TypeVar("M")

TEXTS = ("model", "version", "filter", "session_id", "new_session_id", "stop")

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
    except (TypeError, ValueError):
        for name, value in fields.items():
            if name in REASONS and not holds(kind, name, value):
                raise refusal(name, value) from None
        raise


def holds(kind: Callable[..., object], name: str, value: object) -> bool:
    """Whether a field can be that."""
    try:
        kind(**{name: value})
    except (TypeError, ValueError):
        return False
    return True


def refusal(name: str, value: Any) -> TidegateError:
    """What is wrong with a field, and what to give instead."""
    if isinstance(value, str):
        problem = f"{name} is {value!r}, which holds half of a surrogate pair; give text that UTF-8 can hold"
    elif name in TEXTS:
        problem = f"{name} is {value!r}, which is no text; give text, such as {str(value)!r}"
    else:
        problem = f"{name} is {value!r}, which is below 0, too large or not whole; give a number from 0 on"
    return TidegateError(REASONS[name], problem)


def checked_ids(ids: Iterable[str]) -> list[str]:
    """The ids as a list; raises BAD_SESSION_ID for the first that no message can hold."""
    if isinstance(ids, str):
        raise TidegateError(Reason.BAD_SESSION_ID, f"the ids are the text {ids!r}; give a list of ids")
    names = list(ids)
    try:
        "".join(names).encode()
    except (TypeError, UnicodeEncodeError):
        raise refusal(
            "session_id", next(name for name in names if not holds(session_pb2.Session, "session_id", name))
        ) from None
    return names
