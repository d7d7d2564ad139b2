"""The grammar of the storybook, and the kinds of mistakes against it. Pure.

A sentence is what ends with a stop; it should be `Name saw Name`, with two different names.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import StrEnum

NAMES = ("Doug", "Jane", "Spot")
SAW, STOP = "saw", "stop"
WORDS = 4  # of a right sentence, its stop included


class Mistake(StrEnum):
    """What can be wrong with a sentence; one may have several."""

    SEES_ITSELF = "a name that sees itself"
    RUN_ON = "a run-on"
    ONE_WORD = "a one-word sentence"
    OTHER = "no sentence at all"


def sentences(words: Iterable[str]) -> list[tuple[str, ...]]:
    """The sentences of a story, without their stops; words after the last stop are no sentence yet."""
    found: list[tuple[str, ...]] = []
    begun: list[str] = []
    for word in words:
        if word == STOP:
            found.append(tuple(begun))
            begun = []
        else:
            begun.append(word)
    return found


def mistakes(sentence: Sequence[str]) -> tuple[Mistake, ...]:
    """What is wrong with a sentence (without its stop), in the order of Mistake; nothing if it is right."""
    found = []
    alternates = all((word == SAW) == (place % 2 == 1) for place, word in enumerate(sentence))
    if any(first == third and first in NAMES for first, third in zip(sentence, sentence[2:], strict=False)):
        found.append(Mistake.SEES_ITSELF)
    if len(sentence) > WORDS - 1:
        found.append(Mistake.RUN_ON)
    if len(sentence) == 1 and alternates:
        found.append(Mistake.ONE_WORD)
    if not alternates or len(sentence) % 2 == 0:
        found.append(Mistake.OTHER)
    return tuple(found)


def written(sentence: Sequence[str]) -> str:
    """As it would be printed: `Doug saw Jane.`"""
    return " ".join(sentence) + "."
