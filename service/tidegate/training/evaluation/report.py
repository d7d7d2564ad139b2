"""The report for people: Markdown with tables, beside its pictures and the same numbers as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from math import isnan
from pathlib import Path

from tidegate.training.evaluation.run import Evaluation, Material
from tidegate.training.evaluation.scores import Overall, Score

REPORT, RECORD = "report.md", "report.json"
STREAMS_SHOWN = 20
CAPTIONS = {
    "observed.png": "Observed and predicted",
    "residuals.png": "One-step residuals",
    "horizon.png": "Error by horizon",
}


def write_report(evaluation: Evaluation, material: Material, folder: Path) -> list[str]:
    """Writes report.md, report.json and the pictures into `folder`, which is made; returns the pictures' names."""
    from tidegate.training.evaluation.plots import draw  # noqa: PLC0415  # matplotlib, for reports alone

    folder.mkdir(parents=True, exist_ok=True)
    pictures = draw(material, folder)
    (folder / RECORD).write_text(json.dumps(evaluation.record(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
    lines = [f"# {evaluation.model} {evaluation.version}: evaluation", "", *summary(evaluation)]
    for picture in pictures:
        lines += ["", f"![{CAPTIONS[picture]}]({picture})"]
    (folder / REPORT).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return pictures


def summary(evaluation: Evaluation) -> list[str]:
    """The report without its heading and pictures, as Markdown lines."""
    lines = [*_about(evaluation), "", *_overall_table(evaluation.overall)]
    for target in dict.fromkeys(score.target for score in evaluation.scores):
        lines += ["", f"**{target}**", "", *_target_table([s for s in evaluation.scores if s.target == target])]
    if evaluation.streams > 1:
        lines += ["", *_streams(evaluation)]
    return lines


def _about(evaluation: Evaluation) -> list[str]:
    forecasts = f"; forecasts of several steps from {evaluation.origins:,} origins" if evaluation.origins else ""
    season = f" The season is {evaluation.season} steps." if evaluation.season else ""
    source = f"Data: `{evaluation.source}`. " if evaluation.source else ""
    how = (
        f"{source}{evaluation.steps:,} steps of {_count(evaluation.streams, 'stream')} were sent through a running "
        f"server, each predicted before it was seen{forecasts}. Missing values are sent as missing and not scored."
    )
    lines = [how + season]
    if evaluation.accuracy is not None:
        lines += ["", f"The likeliest category was right in {100 * evaluation.accuracy:.2f}% of the steps."]
    return lines


def _overall_table(overall: Sequence[Overall]) -> list[str]:
    """All targets together, in units of their standard deviation over the training part."""
    rivals = list(overall[0].mae)
    rows = []
    for one in overall:
        for kind, values in (("MAE", one.mae), ("MSE", one.mse)):
            rows.append([str(one.horizon), kind, *(number(values[who]) for who in rivals)])
        if one.horizon > 1:
            rows.append([f"1 to {one.horizon}", "MSE", *(number(one.path_mse[who]) for who in rivals)])
    head = "All targets, in units of their standard deviation over the training part:"
    return [head, "", *table(["steps ahead", "error", *rivals], rows)]


def _target_table(scores: Sequence[Score]) -> list[str]:
    """One target, in its own unit."""
    rivals = list(scores[0].against)
    rows = [
        [
            str(score.horizon),
            *(number(value) for value in (score.mae, score.rmse, score.mase)),
            *(percent(score.against[rival].skill) for rival in rivals),
        ]
        for score in scores
    ]
    return table(["steps ahead", "MAE", "RMSE", "MASE", *(f"skill against {rival}" for rival in rivals)], rows)


def _streams(evaluation: Evaluation) -> list[str]:
    """How many of the streams gain, and the first of them one by one."""
    known = [score for score in evaluation.by_stream if not isnan(score.skill)]
    better = sum(score.skill > 0 for score in known)
    rows = [
        [score.stream, score.target, number(score.mae), number(score.persistence_mae), percent(score.skill)]
        for score in known[:STREAMS_SHOWN]
    ]
    head = f"One step ahead, {better} of {len(known)} pairs of stream and target are predicted better than persistence."
    return [head, "", *table(["stream", "target", "MAE", "persistence", "skill"], rows)]


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    rule = "|" + "---|" * len(head)
    return [f"| {' | '.join(head)} |", rule, *(f"| {' | '.join(cells)} |" for cells in rows)]


def number(value: float) -> str:
    """Four digits."""
    return "–" if isnan(value) else f"{value:.4g}"


def percent(value: float) -> str:
    """A share as percent, with its sign."""
    return "–" if isnan(value) else f"{100 * value:+.1f}%"


def _count(number_: int, what: str) -> str:
    return f"{number_:,} {what}{'' if number_ == 1 else 's'}"


def rows_for_terminal(evaluation: Evaluation) -> list[tuple[str, ...]]:
    """target, steps ahead, MAE, RMSE, MASE, and the skills, as cells of a table."""
    return [
        (
            score.target,
            str(score.horizon),
            *(number(value) for value in (score.mae, score.rmse, score.mase)),
            *(percent(against.skill) for against in score.against.values()),
        )
        for score in evaluation.scores
    ]


def columns_for_terminal(evaluation: Evaluation) -> tuple[str, ...]:
    """The heads of those columns."""
    rivals = evaluation.scores[0].against if evaluation.scores else {}
    return ("target", "steps ahead", "MAE", "RMSE", "MASE", *(f"skill against {rival}" for rival in rivals))
