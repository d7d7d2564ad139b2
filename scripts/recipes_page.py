"""Writes docs/recipes.md: `python scripts/recipes_page.py`."""

from __future__ import annotations

from pathlib import Path

from tidegate.training.options_page import page

(Path(__file__).parents[1] / "docs" / "recipes.md").write_text(page(), encoding="utf-8")
