"""Missing values: stand-ins feature by feature, as the design says it for one session."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.packages import unwritten
from tidegate.engine.judgement.imputation import Imputation, Memory
from tidegate.model.ages import AGE_MAX
from tidegate.model.scaling import unseen

FEATURES, TARGETS = 3, [2, 0]  # features 2 and 0 are predicted, in this order; 1 is not
VALUES = st.floats(-1e6, 1e6) | st.just(np.nan)
MEANS = np.array([0.5, -1.5, 2.5])
NUMBERS = [{"name": "a"}, {"name": "b", "role": "past"}, {"name": "c"}]
# values, reply, last_input, missing_run, blank and gap
Session = tuple[list[float], list[float], list[float], list[int], bool, int]
RULES = Imputation(unwritten(features=NUMBERS, targets=["c", "a"]).manifest, MEANS)
KNOWN = st.floats(-1e6, 1e6, width=32)


@st.composite
def rows(draw: st.DrawFn) -> list[Session]:
    """Some sessions."""
    row = st.tuples(
        st.lists(VALUES, min_size=FEATURES, max_size=FEATURES),
        st.lists(KNOWN, min_size=len(TARGETS), max_size=len(TARGETS)),
        st.lists(KNOWN, min_size=FEATURES, max_size=FEATURES),
        st.lists(st.sampled_from([0, 1, 24, AGE_MAX - 1, AGE_MAX]), min_size=FEATURES, max_size=FEATURES),
        st.booleans(),
        st.sampled_from([0, 1, 1000]),
    )
    return draw(st.lists(row, min_size=1, max_size=12))


@given(rows=rows())
def test_stand_ins(rows: list[Session]) -> None:
    """A missing target is the session's last prediction of it, another feature its last value, and in a session
    without memory the mean; runs of missing values are counted, with the missing steps between them, and stop at what
    the column holds."""
    values, reply, last_input, runs, blank, gaps = (list(part) for part in zip(*rows, strict=True))
    memory = Memory(
        reply=np.array(reply),
        last_input=np.array(last_input),
        missing_run=np.array(runs, np.uint16),
        blank=np.array(blank),
        gap=np.array(gaps),
    )
    imputed = RULES.impute(np.array(values), memory)
    assert imputed.missing_run.dtype == np.uint16
    for place, row in enumerate(rows):
        for feature, value in enumerate(row[0]):
            assert imputed.missing[place, feature] == np.isnan(value)
            if not np.isnan(value):
                wanted, run = value, 0
            elif row[4]:
                wanted, run = float(MEANS[feature]), 1
            else:
                wanted = row[1][TARGETS.index(feature)] if feature in TARGETS else row[2][feature]
                run = min(row[3][feature] + row[5] + 1, AGE_MAX)
            assert imputed.values[place, feature] == wanted
            assert imputed.missing_run[place, feature] == run


def test_what_is_there_is_not_copied() -> None:
    """Rows without missing values pass through as they are, and every run of missing values ends."""
    values = np.ones((2, FEATURES))
    memory = Memory(
        np.zeros((2, 2)),
        np.zeros((2, FEATURES)),
        np.full((2, FEATURES), 7, np.uint16),
        np.zeros(2, bool),
        np.zeros(2, np.int64),
    )
    imputed = RULES.impute(values, memory)
    assert imputed.values is values
    assert not imputed.missing.any()
    assert not imputed.missing_run.any()


def remembering(reply: list[float], last_input: list[float], blank: bool = False) -> Memory:
    """What one session remembers."""
    return Memory(
        np.array([reply]),
        np.array([last_input]),
        np.zeros((1, len(last_input)), np.uint16),
        np.array([blank]),
        np.zeros(1, np.int64),
    )


def test_words_are_missing_as_a_whole() -> None:
    """Where one column of a word is missing, the likeliest word stands in, one-hot; before there is one, no word."""
    words = [{"name": name} for name in "abc"]
    rules = Imputation(
        unwritten(features=words, targets=["a", "b", "c"], head={"kind": "categorical"}).manifest, np.zeros(3)
    )
    memory = remembering([0.2, 0.5, 0.3], [1.0, 0.0, 0.0])
    imputed = rules.impute(np.array([[np.nan, 0.0, 1.0]]), memory)
    assert imputed.values.tolist() == [[0.0, 1.0, 0.0]]
    assert imputed.missing.all()
    imputed = rules.impute(np.full((1, 3), np.nan), remembering([0.2, 0.5, 0.3], [1.0, 0.0, 0.0], blank=True))
    assert imputed.values.tolist() == [[0.0, 0.0, 0.0]]


def test_what_may_be_left_out() -> None:
    """A static covariate that is not sent again keeps its value, an output is never sent: neither counts as missing.
    An unknown category is none of them; a quantile head's median stands in."""
    features = [
        {"name": "a"},
        {"name": "kind", "role": "static", "categories": ["x", "y"]},
        {"name": "out", "role": "output"},
    ]
    head = {"kind": "quantile", "levels": [0.1, 0.5, 0.9]}
    manifest = unwritten(features=features, targets=["a", "out"], head=head).manifest
    rules = Imputation(manifest, unseen(manifest))
    memory = remembering([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [7.0, 1.0, 8.0])
    imputed = rules.impute(np.full((1, 3), np.nan), memory)
    assert imputed.values.tolist() == [[2.0, 1.0, 5.0]]
    assert imputed.missing.tolist() == [[True, False, False]]
    assert imputed.missing_run.tolist() == [[1, 0, 0]]
    memory.blank[:] = True
    assert rules.impute(np.full((1, 3), np.nan), memory).values.tolist() == [[0.0, -1.0, 0.0]]
