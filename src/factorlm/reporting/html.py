"""The page of a study as one HTML file, beside the copy of plotly.js that a store shares."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

from factorlm.reporting.sections import Page

FILES = Path(__file__).parent / "page"


def render(page: Page, plotly: str) -> str:
    """The HTML of a page.

    Args:
        page: of the study.
        plotly: address of plotly.js, relative to the page.
    """
    return str(
        _template().render(
            page=page,
            plotly=plotly,
            style=(FILES / "style.css").read_text(),
            scripts=[(FILES / name).read_text() for name in ("tables.js", "charts.js", "report.js")],
        )
    )


@cache
def _template() -> Any:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(FILES), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["anchor"] = lambda text: re.sub(r"\W+", "-", text).strip("-").lower()
    environment.filters["items_of_list"] = _items
    return environment.get_template("report.html")


def _items(lines: list[str]) -> list[str]:
    """The items of a Markdown list, without its marks."""
    text = " ".join(line.strip() if not line.startswith("* ") else "\n" + line[2:] for line in lines)
    return [item.strip().replace("*sees*", "sees") for item in text.split("\n") if item.strip()]
