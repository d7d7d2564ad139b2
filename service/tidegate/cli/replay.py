"""`tidegate replay`: a file's observations through a running server, as fast as it takes them or at a rate."""

from __future__ import annotations

import csv
import json
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from itertools import islice
from pathlib import Path
from typing import Any

import click
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tidegate.cli.options import NewFile, address, print_table
from tidegate.cli.table import ENCODING, Layout, Row, check_features, column_option, count_rows, read_header, read_rows
from tidegate.client import Batches, Client, Description, RowFlag
from tidegate.client.failures import RESYNC, told
from tidegate.client.values.accuracy import Accuracy, score_rows
from tidegate.errors import TidegateError

ROWS_PER_MESSAGE = 1024
MESSAGES_PER_SECOND = 20  # at most, when a rate is asked for
HURRY_SECONDS = 1.0  # for closing the session of a replay that is interrupted
Write = Callable[[dict[str, Any]], None]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--model", required=True, help="The model's name.")
@click.option("--session", help="The session's id; it lives on. Default: a new one, closed at the end.")
@click.option("--id-column", help="The column that names each row's session, for files of many feeds.")
@click.option("--time-column", help="The column of the observation's time, ISO 8601; UTC where it says no zone.")
@column_option
@click.option("--words", metavar="HEADER", help="The column of words of a model that predicts one of its targets.")
@click.option("--output", type=NewFile(), help="Write observed beside predicted here.")
@click.option("--limit", type=click.IntRange(min=1), help="At most this many rows.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), help="Rows a second; default: as fast as it goes.")
@address
def replay(
    file: Path,
    model: str,
    session: str | None,
    id_column: str | None,
    time_column: str | None,
    columns: dict[str, str],
    words: str | None,
    output: Path | None,
    limit: int | None,
    rate: float | None,
    address: str,
) -> None:
    """Stream FILE (CSV with a header) through a running server; columns are found by the features' names.

    Cells are read as training reads them: words of a feature with categories, NA and the like as missing values.

    The output (.csv or .jsonl) has a row for each row of the file: time, step, observed targets, and what was predicted
    for that time. Ends with each target's mean absolute error beside persistence's.
    """
    if session and id_column:
        raise click.UsageError("--session and --id-column exclude each other")
    if output and output.suffix not in WRITERS:
        raise click.UsageError(f"--output {output.name}: the name must end with {' or '.join(WRITERS)}")
    if output and output.exists() and output.samefile(file):
        raise click.UsageError(f"--output {output.name}: is the file that is read; give another one")
    name = session or f"{file.stem}-{uuid.uuid4().hex[:8]}"
    with ExitStack() as stack:
        client = stack.enter_context(Client(address))
        batches = stack.enter_context(client.batches(model))
        text = stack.enter_context(file.open(newline="", encoding=ENCODING))
        about, header = batches.about, read_header(file)
        observed = [target for target in about.targets if target not in about.names]  # nobody sends them
        check_features(columns, (*about.names, *observed))
        vocabulary = about.targets if about.head == "categorical" else ()
        named = {*header, *columns, *(vocabulary if words else ())}  # what is named must be there
        features = (*about.names, *(target for target in observed if target in named))
        if unsent := [future for future in about.future_names if future in header]:
            click.echo(f"not sent: {', '.join(unsent)} (known ahead); predictions go without", err=True)
        layout = Layout(features, name, id_column, time_column, about.words, columns, vocabulary, words)
        rows = islice(read_rows(text, layout), limit)
        total, closing = min(count_rows(file), limit or count_rows(file)), client
        try:
            with opened_output(output, about) as write, progress_bar(total) as advance:
                accuracy = run(batches, features, rows, write, advance, rate)
        except KeyboardInterrupt:
            closing = stack.enter_context(Client(address, timeout_seconds=HURRY_SECONDS))  # the server may hang
            raise
        finally:
            if not session and not id_column:
                with suppress(TidegateError):  # what stopped the replay says more
                    closing.close_sessions(model, [name])
    print_table(("target", "MAE", "persistence", "below"), score_rows(accuracy.scores()))


def run(
    batches: Batches,
    features: tuple[str, ...],
    rows: Iterator[Row],
    write: Write,
    advance: Callable[[int], None],
    rate: float | None,
) -> Accuracy:
    """Steps chunk by chunk; stops after the first one with a row that fails, naming its line.

    Rows hold `features`: those that are sent, then targets that are only compared.
    """
    accuracy = Accuracy(batches.about.targets)
    size = ROWS_PER_MESSAGE if rate is None else max(1, int(rate / MESSAGES_PER_SECOND))
    due = time.monotonic()
    while chunk := list(islice(rows, size)):
        if rate is not None:
            time.sleep(max(0.0, due - time.monotonic()))
            due += len(chunk) / rate
        step_chunk(batches, features, chunk, accuracy, write)
        advance(len(chunk))
    return accuracy


def step_chunk(batches: Batches, features: tuple[str, ...], chunk: list[Row], accuracy: Accuracy, write: Write) -> None:
    """One message: steps, scores, writes; rows beside one that fails were taken, and are written too."""
    ids, matrix = [row.session for row in chunk], np.array([row.values for row in chunk])
    times = [row.time for row in chunk]
    about = batches.about
    predictions = batches.step(ids, matrix[:, : len(about.names)], times=times if any(times) else None)
    seen = np.full((len(chunk), len(about.targets)), np.nan)
    for place, target in enumerate(about.targets):
        if target in features:
            seen[:, place] = matrix[:, features.index(target)]
    failed = {error.row: error for error in predictions.errors}
    for index, row in enumerate(chunk):
        if index in failed:
            continue
        bridged = bool(predictions.flags[index] & RowFlag.STEPS_IMPUTED)
        predicted = accuracy.observe(row.session, seen[index], bridged)
        accuracy.predicted(row.session, predictions.values[index])
        write(to_record(row, int(predictions.steps[index]), about.targets, seen[index], predicted))
    if failed:
        bad = predictions.errors[0]
        problem = told(bad.reason.name, bad.message, {}).problem
        problem = problem.removesuffix(f"; {RESYNC}")  # a file has no session object
        raise TidegateError(bad.reason, f"line {chunk[bad.row].line}, session {bad.id}: {problem}")


def to_record(row: Row, step: int, targets: tuple[str, ...], observed: Any, predicted: Any) -> dict[str, Any]:
    """A row of the output; None where nothing was observed or predicted."""
    record: dict[str, Any] = {"session": row.session, "time": row.written_time or None, "step": step}
    for name, value in zip(targets, observed.tolist(), strict=True):
        record[name] = None if np.isnan(value) else value
    for name, value in zip(targets, predicted.tolist(), strict=True):
        record[f"{name}_predicted"] = None if np.isnan(value) else round(value, 6)
    return record


@contextmanager
def opened_output(path: Path | None, about: Description) -> Iterator[Write]:
    """What writes a record to the file; nothing when there is none."""
    if path is None:
        yield lambda _: None
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        yield WRITERS[path.suffix](file, about)


def csv_writer(file: Any, about: Description) -> Write:
    """Records as CSV with a header; None is an empty cell."""
    columns = ["session", "time", "step", *about.targets, *(f"{name}_predicted" for name in about.targets)]
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    return lambda record: writer.writerow(record) and None


def jsonl_writer(file: Any, about: Description) -> Write:
    """Records as JSON lines."""
    del about
    return lambda record: file.write(json.dumps(record) + "\n") and None


WRITERS = {".csv": csv_writer, ".jsonl": jsonl_writer}


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[int], None]]:
    """What moves a bar on standard error, which shows only on a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("replaying"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console)
    with progress if console.is_terminal else nullcontext():
        task = progress.add_task("replay", total=total)
        yield lambda rows: progress.advance(task, rows)
