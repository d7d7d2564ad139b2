"""How a CSV file is written is found from its first lines."""

from __future__ import annotations

import pytest

from tidegate.training.layout import Layout, layout_of

FILES = {
    "commas": ("time,a,b\n2024-01-01,1.5,2\n", Layout()),
    "semicolons and decimal commas": ("Datum;a;b\n01.01.2024;1,5;2,25\n02.01.2024;3;4,5\n", Layout(";", ",")),
    "a decimal comma in every cell": ("a;b, hPa\n1,5;2,5\n1,6;2,6\n", Layout(";", ",")),
    "semicolons and decimal points": ("time;a\n2024-01-01;1.5\n", Layout(";")),
    "tabs": ("time\ta\n2024-01-01\t1.5\n", Layout("\t")),
    "bars": ("time|a\n2024-01-01|1.5\n", Layout("|")),
    "thousands in quotes": ('time,a\n2024-01-01,"1,234"\n', Layout()),
    "semicolons in a text": ('time,note\n2024-01-01,"dry; cold; windy"\n', Layout()),
    "one column": ("a\n1.5\n", Layout()),
    "a short row": ("time;a;b\n2024-01-01;1,5\n", Layout(";", ",")),
    "nothing": ("", Layout()),
}


@pytest.mark.parametrize(("text", "layout"), FILES.values(), ids=FILES)
def test_layout(text: str, layout: Layout) -> None:
    """The separator is the one that parts the header into most cells, and no row into more."""
    assert layout_of(text.splitlines(keepends=True)) == layout
