"""`tidegate replay`: a file through a server gives what its rows give one by one."""

from __future__ import annotations

import csv
import json
import signal
import subprocess
import sys
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from tests.packages import random_package
from tests.servers import RunningServer
from tidegate import Client, TidegateError
from tidegate.cli import main
from tidegate.cli.table import CENTURIES, COMPACT, MISSING, TRUTHS, UNIX_SECONDS, to_time, to_value
from tidegate.training import sources, times
from tidegate.training.data import load
from tidegate.training.recipe import make_recipe

COLUMNS = ("x0", "x1", "x2", "x3")
INTERRUPTED_SECONDS_MAX = 20.0  # a call may take 30
HEARS = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
from tidegate.cli import main
main()
"""
SKY: list[dict[str, Any]] = [{"name": "x0"}, {"name": "sky", "role": "past", "categories": ["clear", "rain"]}]


def run(server: RunningServer, file: Path, *words: str, model: str = "random") -> Result:
    """The command's result."""
    return CliRunner().invoke(main, ["replay", str(file), "--model", model, "--address", server.grpc, *words])


def write_table(file: Path, header: list[str], rows: list[list[object]]) -> Path:
    """A CSV file."""
    with file.open("w", newline="", encoding="utf-8") as text:
        csv.writer(text).writerows([header, *rows])
    return file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Twelve days, columns in another order than the model's, one not of it, one cell empty."""
    values = np.random.default_rng(0).standard_normal((12, 4)).round(3)
    rows: list[list[object]] = [
        [f"2024/01/{day + 1:02}", row[3], "sunny", row[0], row[1], "" if day == 5 else row[2]]
        for day, row in enumerate(values.tolist())
    ]
    return write_table(tmp_path / "days.csv", ["date", "x3", "mood", "x0", "x1", "x2"], rows)


def expected_of(server: RunningServer, file: Path) -> list[dict[str, Any]]:
    """The same steps taken one by one by the client."""
    records = []
    with Client(server.grpc) as client, file.open(newline="") as text:
        session = client.session("random", uuid.uuid4().hex)
        predicted: Any = [None] * 4
        for step, cells in enumerate(csv.DictReader(text), 1):
            values = {name: float(cells[name]) if cells[name] else None for name in COLUMNS}
            record = {"time": cells["date"], "step": step, **values}
            records.append(record | {f"{name}_predicted": said for name, said in zip(COLUMNS, predicted, strict=True)})
            predicted = [round(value, 6) for value in session.step(values).values.tolist()]
        session.close()
    return records


def test_jsonl_holds_what_was_predicted_for_each_row(server: RunningServer, table: Path, tmp_path: Path) -> None:
    """Each row has what the client, stepping one by one, was told after the row before; null where nothing was."""
    output = tmp_path / "out.jsonl"
    result = run(server, table, "--time-column", "date", "--output", str(output))
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert len({record.pop("session") for record in records}) == 1
    assert records == expected_of(server, table)
    with Client(server.grpc) as client:
        assert not list(client.sessions(filter="id=days-*"))


def test_csv_and_errors(server: RunningServer, table: Path, tmp_path: Path) -> None:
    """The CSV says the same, and the errors printed at the end are those of its columns."""
    output = tmp_path / "out.csv"
    result = run(server, table, "--output", str(output), "--session", "named")
    with output.open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [row["session"] for row in rows] == ["named"] * 12
    assert rows[5]["x2"] == rows[0]["x2_predicted"] == ""
    for name in COLUMNS:
        pairs = [(float(r[name]), float(r[f"{name}_predicted"])) for r in rows[1:] if r[name]]
        seen = [float(row[name]) for row in rows if row[name]]
        # Persistence is the last value that was there: over the empty cell it reaches back.
        model = np.mean([abs(observed - predicted) for observed, predicted in pairs])
        last = np.mean(np.abs(np.diff(seen)))
        (line,) = [line for line in result.stdout.splitlines() if f" {name} " in line]
        assert f"{model:.3f}" in line
        assert f"{last:.3f}" in line
    with Client(server.grpc) as client:
        assert client.session("random", "named").info().step == 12
        client.session("random", "named").close()


def test_a_named_session_goes_on(server: RunningServer, table: Path, tmp_path: Path) -> None:
    """Replaying in two runs into one session numbers on, and a limit stops where it says."""
    output = tmp_path / "out.jsonl"
    for first in (1, 5):
        assert run(server, table, "--session", "twice", "--limit", "4", "--output", str(output)).exit_code == 0
        steps = [json.loads(line)["step"] for line in output.read_text().splitlines()]
        assert steps == list(range(first, first + 4))


def test_many_feeds_in_one_file(server: RunningServer, tmp_path: Path) -> None:
    """With an id column each row steps its own session; predictions are never mixed up."""
    values = np.random.default_rng(1).standard_normal((3000, 4)).round(3).tolist()
    run_id = uuid.uuid4().hex
    feeds = [f"{run_id}-{index % 7}" for index in range(3000)]
    rows = [[feed, *row] for feed, row in zip(feeds, values, strict=True)]
    file, output = write_table(tmp_path / "feeds.csv", ["feed", *COLUMNS], rows), tmp_path / "out.jsonl"
    result = run(server, file, "--id-column", "feed", "--output", str(output))
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in output.read_text().splitlines()]
    with Client(server.grpc) as client:
        alone = client.session("random", uuid.uuid4().hex)
        mine = [record for record in records if record["session"] == feeds[3]]
        for step, record in enumerate(mine[:50], 1):
            assert record["step"] == step
            prediction = alone.step([record[name] for name in COLUMNS])
            told = [mine[step][f"{name}_predicted"] for name in COLUMNS]
            assert told == [round(value, 6) for value in prediction.values.tolist()]


def test_a_bridged_gap_is_not_scored(server: RunningServer, tmp_path: Path) -> None:
    """A prediction for a time that never came is not put beside the observation after it."""
    gaps = {"policy": "impute", "gap_steps_max": 5}
    random_package(server.models, "dated", frequency="D", gaps=gaps)
    with Client(server.grpc) as client:
        client.reload_models()
    rows: list[list[object]] = [[f"2024-01-0{day}", 0.1, 0.2, 0.3, 0.4] for day in (1, 2, 5, 6)]
    file, output = write_table(tmp_path / "gap.csv", ["t", *COLUMNS], rows), tmp_path / "out.jsonl"
    result = run(server, file, "--time-column", "t", "--output", str(output), model="dated")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["x0_predicted"] is None for record in records] == [True, False, True, False]


@pytest.fixture(scope="module")
def sky(server: RunningServer) -> RunningServer:
    """The server with a model, `sky`, of a number and a word."""
    random_package(server.models, "sky", features=SKY, targets=["x0"])
    with Client(server.grpc) as client:
        client.reload_models()
    return server


def test_words_and_missing_cells(sky: RunningServer, tmp_path: Path) -> None:
    """A file with a byte order mark, words and every way to write a missing value gives what a client's own words and
    None give."""
    cells = [("1", "rain"), *((word, "clear") for word in MISSING), ("2", "rain"), ("3", "NA"), ("4", "clear")]
    file, output = tmp_path / "sky.csv", tmp_path / "out.jsonl"
    file.write_text("x0,sky\n" + "".join(f"{x0},{word}\n" for x0, word in cells), encoding="utf-8-sig")
    result = run(sky, file, "--output", str(output), model="sky")
    assert result.exit_code == 0, result.output
    told = [json.loads(line)["x0_predicted"] for line in output.read_text().splitlines()]
    with Client(sky.grpc) as client:
        session = client.session("sky", uuid.uuid4().hex)
        for (x0, word), expected in zip(cells, [*told[1:], None], strict=True):
            prediction = session.step(
                {"x0": None if x0 in MISSING else float(x0), "sky": None if word in MISSING else word}
            )
            assert expected in (None, round(prediction["x0"], 6))
        session.close()
    assert None not in told[1:]


def test_cells_are_those_of_training() -> None:
    """What training reads as missing, or as a time, is so in a replay; a client has no training to ask."""
    assert MISSING == sources.MISSING
    assert (COMPACT, CENTURIES) == (times.COMPACT, times.CENTURIES)
    assert list(UNIX_SECONDS)[:-1] == list(times.UNIX_UNITS.values())[:-1]


def test_truths_are_those_of_training(tmp_path: Path) -> None:
    """A column of truths is what training makes of it, but where they are a feature's words."""
    file = write_table(tmp_path / "truths.csv", ["on", "y"], [[cell, index] for index, cell in enumerate(TRUTHS)])
    features = [{"name": "y"}, {"name": "on", "role": "past"}]
    recipe = make_recipe({"name": "truths", "data": {"source": str(file), "test": None}, "features": features})
    (stream,) = load(recipe).streams
    assert stream.values[:, 1].tolist() == [to_value("on", cell) for cell in TRUTHS]
    assert to_value("on", "true", ("false", "true")) == 1.0
    assert to_value("on", "false", ("true", "false")) == 1.0


def test_a_column_of_another_name(sky: RunningServer, tmp_path: Path) -> None:
    """A feature is found by the header that --column gives; without it, the error says how, and nothing else."""
    file = write_table(tmp_path / "sky.csv", ["x0", "the sky=now"], [["1", "rain"]])
    assert run(sky, file, "--column", "sky=the sky=now", model="sky").exit_code == 0
    result = run(sky, file, model="sky")
    assert result.exit_code == 1
    assert "no column sky, but x0, the sky=now; --column NAME=HEADER" in result.stderr
    assert "finite number" not in result.stderr


@pytest.mark.parametrize(("option", "said"), [("sky", "is not NAME=HEADER"), ("y=x0", "no feature y, but x0, sky")])
def test_a_wrong_column_option(sky: RunningServer, tmp_path: Path, option: str, said: str) -> None:
    """--column of no feature, or without a header, is wrong usage."""
    result = run(sky, write_table(tmp_path / "sky.csv", ["x0", "sky"], []), "--column", option, model="sky")
    assert result.exit_code == 2
    assert said in " ".join(result.stderr.split())


@pytest.fixture(scope="module")
def words(server: RunningServer) -> RunningServer:
    """The server with a model, `words`, that predicts which of three comes next."""
    names = ("cat", "dog", "owl")
    features = [{"name": name, "role": "target"} for name in names]
    random_package(server.models, "words", features=features, targets=names, head={"kind": "categorical"})
    with Client(server.grpc) as client:
        client.reload_models()
    return server


def test_a_column_of_words(words: RunningServer, tmp_path: Path) -> None:
    """A model of words takes them from one column, and a client as they are; an unknown one is named with its line, and
    the error about a file without columns of the words' names says how."""
    seen = ["dog", "cat", "", "owl", "owl"]
    file = write_table(tmp_path / "words.csv", ["day", "animal"], [["1", word] for word in seen])
    output = tmp_path / "out.jsonl"
    result = run(words, file, "--words", "animal", "--output", str(output), model="words")
    assert result.exit_code == 0, result.output
    records = [json.loads(line) for line in output.read_text().splitlines()]
    assert [record["dog"] for record in records] == [1.0, 0.0, None, 0.0, 0.0]
    with Client(words.grpc) as client:
        session = client.session("words", uuid.uuid4().hex)
        for word, record in zip(seen, records[1:], strict=False):
            found = session.step(word or [None] * 3)
            assert round(found["owl"], 6) == record["owl_predicted"]
        with pytest.raises(TidegateError, match="does not know the word 'cow'; its words are cat, dog, owl"):
            session.step("cow")
    assert "--words HEADER which one holds words" in run(words, file, model="words").stderr
    wrong = write_table(tmp_path / "cow.csv", ["animal"], [["dog"], ["cow"]])
    assert "line 3: animal is 'cow'" in run(words, wrong, "--words", "animal", model="words").stderr
    assert run(words, file, "--words", "animal").exit_code == 2


def test_rows_beside_one_that_fails_are_written(server: RunningServer, tmp_path: Path) -> None:
    """They were taken. The error names the line, and what stays is said nowhere else: a session of the replay's own is
    closed all the same."""
    run_id = uuid.uuid4().hex
    rows: list[list[object]] = [[f"{run_id}-{row % 3}", 1, 2, 3, "inf" if row == 3 else row] for row in range(9)]
    file, output = write_table(tmp_path / "some.csv", ["feed", *COLUMNS], rows), tmp_path / "out.jsonl"
    result = run(server, file, "--id-column", "feed", "--output", str(output))
    assert result.exit_code == 1
    assert f"line 5, session {run_id}-0" in result.stderr
    written = [json.loads(line) for line in output.read_text().splitlines()]
    with Client(server.grpc) as client:
        taken = {info.id: info.step for info in client.sessions(filter=f"id={run_id}*")}
    assert taken == {f"{run_id}-0": 1, f"{run_id}-1": 3, f"{run_id}-2": 3}
    assert {name: [r["step"] for r in written if r["session"] == name][-1] for name in taken} == taken
    assert run(server, file).exit_code == 1
    with Client(server.grpc) as client:
        assert not list(client.sessions(filter="id=some-*"))


def test_files_that_cannot_be_written(server: RunningServer, table: Path, tmp_path: Path) -> None:
    """A folder that is not there is wrong usage, before anything is stepped; what fails later is one line."""
    result = run(server, table, "--session", "unwritten", "--output", str(tmp_path / "none" / "out.csv"))
    assert result.exit_code == 2
    assert "there is no folder" in " ".join(result.stderr.split())
    with Client(server.grpc) as client:
        assert not list(client.sessions(filter="id=unwritten"))
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    result = run(server, table, "--output", str(tmp_path / "loop.csv"))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert "loop.csv: " in result.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2024-01-01,1,2,3,4,5", "line 3: has more cells than the header"),
        ("01/02/2020,1,2,3,4", "line 3: the time is '01/02/2020'; write it as 2024-01-31"),
        ("2500-01-01,1,2,3,4", "line 3: the time 2500-01-01 00:00:00+00:00 is not between 1677 and 2262"),
    ],
)
def test_a_wrong_line(server: RunningServer, tmp_path: Path, line: str, said: str) -> None:
    """Cells beyond the header, and what is no time, are named with their line; nothing is taken for something else."""
    file = tmp_path / "line.csv"
    file.write_text(f"day,{','.join(COLUMNS)}\n2023-12-31,1,2,3,4\n{line}\n")
    result = run(server, file, "--time-column", "day")
    assert result.exit_code == 1
    assert said in result.stderr


def test_an_unknown_word(sky: RunningServer, tmp_path: Path) -> None:
    """It is named with its line and the words that there are."""
    result = run(sky, write_table(tmp_path / "sky.csv", ["x0", "sky"], [["1", "rain"], ["1", "hail"]]), model="sky")
    assert result.exit_code == 1
    assert "line 3: sky is 'hail'" in result.stderr
    assert "its words are clear, rain" in result.stderr


@pytest.mark.parametrize("content", [b"PAR1\x15\x04\x80\x00", "x0,größe\n1,2\n".encode("latin-1")])
def test_not_a_csv(server: RunningServer, tmp_path: Path, content: bytes) -> None:
    """A file that is not UTF-8 (Parquet, Latin-1) is refused in words."""
    file = tmp_path / "wrong.csv"
    file.write_bytes(content)
    result = run(server, file)
    assert result.exit_code == 1
    assert "is not a CSV in UTF-8" in result.stderr


def test_advice_is_given_once(server: RunningServer, tmp_path: Path) -> None:
    """What the server says to do about a refused row stands once in the error."""
    result = run(server, write_table(tmp_path / "wrong.csv", list(COLUMNS), [["1", "2", "3", "inf"]]))
    assert result.stderr.count("Send one finite number") == 1


@pytest.mark.parametrize(
    ("header", "cells", "named"),
    [
        (["x0", "x1", "x2"], ["1", "2", "3"], "no column x3"),
        (["x0", "x1", "x2", "x3"], ["1", "2", "3", "much"], "line 2: "),
        (["x0", "x1", "x2", "x3"], ["1", "2", "3", "inf"], "line 2, session "),
    ],
)
def test_a_wrong_file(
    server: RunningServer, tmp_path: Path, header: list[str], cells: list[object], named: str
) -> None:
    """What is wrong in the file is named by its column or line, with exit code 1."""
    result = run(server, write_table(tmp_path / "wrong.csv", header, [cells]))
    assert result.exit_code == 1
    assert named in result.stderr


def test_wrong_usage(server: RunningServer, table: Path) -> None:
    """Options that contradict each other, or an output of an unknown kind, are wrong usage."""
    assert run(server, table, "--session", "a", "--id-column", "date").exit_code == 2
    assert run(server, table, "--output", "out.xlsx").exit_code == 2


def test_a_rate_is_kept_by_small_messages(server: RunningServer, table: Path) -> None:
    """With a rate the rows arrive as before."""
    assert run(server, table, "--rate", "1000").exit_code == 0


NUMBERS = [
    "2024010200",
    "202401020000",
    "20240102000000",
    "1704153600",
    "1704153600000",
    "1704153600000000",
    "1704153600000000000",
]


@pytest.mark.parametrize("cell", ["2024/01/02", "2024-01-02", "2024-01-02T00:00Z", "2024-01-02 01:00+01:00", *NUMBERS])
def test_times_are_read(cell: str) -> None:
    """Dates and times of ISO 8601, with dashes or slashes, are UTC unless they name a zone; numbers are dates, or
    count from 1970 in the unit that their size tells, as training reads them."""
    assert to_time(cell) == datetime(2024, 1, 2, tzinfo=UTC)


def test_the_file_that_is_read_is_not_written(server: RunningServer, table: Path) -> None:
    """Also by another name; it is as it was."""
    before, other = table.read_bytes(), table.with_name("other.csv")
    other.symlink_to(table)
    for output in (table, other):
        result = run(server, table, "--output", str(output))
        assert result.exit_code == 2
        assert "is the file that is read" in result.stderr
        assert table.read_bytes() == before


OUTPUTS: list[dict[str, Any]] = [
    {"name": "x0", "role": "past"},
    {"name": "known", "role": "future"},
    {"name": "y0", "role": "output"},
]


@pytest.mark.parametrize("observed", [True, False])
def test_targets_that_nobody_sends(server: RunningServer, tmp_path: Path, observed: bool) -> None:
    """They are compared with the file's column of that name, if it has one; and what is not sent is said."""
    name = f"outputs-{observed}".lower()
    random_package(server.models, name, features=OUTPUTS, targets=["y0"])
    with Client(server.grpc) as client:
        client.reload_models()
    header, rows = ["x0", "known", *(["y0"] if observed else [])], [[1.0, 0.5, 3.0], [2.0, 0.5, 4.0]]
    file = write_table(tmp_path / "rows.csv", header, [list(row[: len(header)]) for row in rows])
    output = tmp_path / "out.jsonl"
    result = run(server, file, "--output", str(output), model=name)
    assert result.exit_code == 0, result.output
    assert "not sent: known" in result.stderr
    written = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["y0"] for row in written] == ([3.0, 4.0] if observed else [None, None])
    assert written[1]["y0_predicted"] is not None


def test_a_full_disk(server: RunningServer, tmp_path: Path) -> None:
    """It is one line."""
    table = write_table(tmp_path / "rows.csv", list(COLUMNS), [[1, 2, 3, 4]] * 3000)
    output = tmp_path / "full.csv"
    output.symlink_to("/dev/full")
    result = run(server, table, "--output", str(output))
    assert result.exit_code == 1
    assert "No space left on device" in result.stderr
    assert isinstance(result.exception, SystemExit)


def test_advice_is_for_who_reads_it(server: RunningServer, tmp_path: Path) -> None:
    """A session's object, which could be told to go on from a gap, is not at hand here."""
    random_package(server.models, "daily", frequency="D")
    with Client(server.grpc) as client:
        client.reload_models()
    table = write_table(tmp_path / "days.csv", ["date", *COLUMNS], [["2024-01-01", *"1234"], ["2024-01-09", *"1234"]])
    result = run(server, table, "--time-column", "date", model="daily")
    assert result.exit_code == 1
    assert "STEP_GAP" in result.stderr
    assert "resync" not in result.stderr


@pytest.mark.parametrize("option", [["--column", "y0=typo"], ["--column", "y0=x0"]])
def test_a_column_of_a_target_that_nobody_sends(server: RunningServer, tmp_path: Path, option: list[str]) -> None:
    """It must be there."""
    name = f"columns-{option[1][-2:]}"
    random_package(server.models, name, features=OUTPUTS, targets=["y0"])
    with Client(server.grpc) as client:
        client.reload_models()
    file, output = write_table(tmp_path / "rows.csv", ["x0"], [[1.0], [2.0]]), tmp_path / "out.jsonl"
    result = run(server, file, *option, "--output", str(output), model=name)
    if "typo" in option[1]:
        assert result.exit_code == 1
        assert "has no column typo" in result.stderr
    else:
        assert [json.loads(line)["y0"] for line in output.read_text().splitlines()] == [1.0, 2.0]


def test_an_interrupted_replay(tmp_path: Path) -> None:
    """It ends soon, also where the server hangs."""
    models = tmp_path / "models"
    random_package(models)
    table = write_table(tmp_path / "rows.csv", list(COLUMNS), [[1, 2, 3, 4]] * 5000)
    with RunningServer(models) as server:
        command = [sys.executable, "-c", HEARS, "replay", str(table), "--model", "random", "--rate", "50"]
        command += ["--address", server.grpc]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
            with Client(server.grpc) as client:
                while not list(client.sessions(filter="id=rows-*")):
                    time.sleep(0.01)
            server.process.send_signal(signal.SIGSTOP)
            try:
                process.send_signal(signal.SIGINT)
                _, said = process.communicate(timeout=INTERRUPTED_SECONDS_MAX)
            finally:
                server.process.send_signal(signal.SIGCONT)
    assert process.returncode == 1
    assert "Traceback" not in said
    assert "Aborted!" in said
