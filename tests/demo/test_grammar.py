"""The storybook's grammar and the names of its mistakes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate.demo.grammar import NAMES, SAW, STOP, Mistake, mistakes, sentences, written
from tidegate.demo.storybook import count

WORD = st.sampled_from((*NAMES, SAW))


def is_right(sentence: list[str]) -> bool:
    """The grammar itself."""
    return len(sentence) == 3 and sentence[1] == SAW and len({*sentence} & {*NAMES}) == 2 and sentence[0] in NAMES


@given(st.lists(WORD, max_size=9))
def test_only_right_sentences_have_no_mistake(sentence: list[str]) -> None:
    """Whatever is not `Name saw Name` with two names has a mistake, and that has none."""
    assert (mistakes(sentence) == ()) == is_right(sentence)


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("Doug saw Jane", ()),
        ("Doug saw Doug", (Mistake.SEES_ITSELF,)),
        ("Jane saw Spot saw Doug", (Mistake.RUN_ON,)),
        ("Jane saw Jane saw Doug", (Mistake.SEES_ITSELF, Mistake.RUN_ON)),
        ("Spot", (Mistake.ONE_WORD,)),
        ("saw", (Mistake.OTHER,)),
        ("Doug Jane", (Mistake.OTHER,)),
        ("Doug saw", (Mistake.OTHER,)),
        ("", (Mistake.OTHER,)),
    ],
)
def test_mistakes_have_their_names(text: str, kinds: tuple[Mistake, ...]) -> None:
    """The kinds that the introduction names, and one for the rest."""
    assert mistakes(text.split()) == kinds


@given(st.lists(st.sampled_from((*NAMES, SAW, STOP))))
def test_sentences_are_what_stops_end(words: list[str]) -> None:
    """Every stop ends one sentence; joined again they are the words up to the last stop."""
    found = sentences(words)
    assert len(found) == words.count(STOP)
    joined = [word for sentence in found for word in (*sentence, STOP)]
    assert words[: len(joined)] == joined
    assert STOP not in words[len(joined) :]


def test_counting_names_each_kind_once_a_sentence() -> None:
    """A sentence with two mistakes is one wrong sentence."""
    found = count([("Doug", SAW, "Doug", SAW, "Jane"), ("Doug", SAW, "Jane"), ("Spot",)])
    assert found.lines() == [
        "3 sentences, 2 of them wrong",
        "  1 with a name that sees itself",
        "  1 with a run-on",
        "  1 with a one-word sentence",
    ]
    assert written(("Doug", SAW, "Jane")) == "Doug saw Jane."
