"""A model's evaluation in its card: `models/NAME/card.md` has a section between two markers, written anew each time.

The report's files lie in the version's own folder (`models/NAME/VERSION/evaluation/`): a server reads a model's other
folders as versions.
"""

from __future__ import annotations

from pathlib import Path

from tidegate.training.evaluation.report import REPORT, summary
from tidegate.training.evaluation.run import Evaluation

CARD, REPORTS = "card.md", "evaluation"
BEGIN, END = "<!-- evaluation: begin -->", "<!-- evaluation: end -->"


def update_card(folder: Path, evaluation: Evaluation, pictures: list[str]) -> None:
    """Writes the section of the card in `folder` (`…/<name>`); the rest of the card stays. Without a card, a short one
    is begun."""
    path = folder / CARD
    card = path.read_text(encoding="utf-8") if path.exists() else f"# {evaluation.model}\n"
    path.write_text(with_section(card, section(evaluation, pictures)), encoding="utf-8")


def section(evaluation: Evaluation, pictures: list[str]) -> str:
    """The section's Markdown, without its markers."""
    place = f"{evaluation.version}/{REPORTS}"
    lines = [f"## Version {evaluation.version}, measured", "", *summary(evaluation)]
    lines += [line for picture in pictures for line in ("", f"![{picture}]({place}/{picture})")]
    return "\n".join([*lines, "", f"The same as a page of its own: [{REPORT}]({place}/{REPORT})."])


def with_section(card: str, text: str) -> str:
    """The card with this section in the place of the one that it has, else at its end."""
    marked = f"{BEGIN}\n{text}\n{END}"
    before, begin, rest = card.partition(BEGIN)
    _, end, after = rest.partition(END)
    if begin and end:
        return before + marked + after
    return f"{card.rstrip()}\n\n{marked}\n"
