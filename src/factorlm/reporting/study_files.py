"""The files of a study's report, all made from its ``comparison.json`` and run folders."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from factorlm.assets import write_atomically
from factorlm.reporting.asset import share_plotly
from factorlm.reporting.content import study_page
from factorlm.reporting.figure import draw_bins
from factorlm.reporting.html import render
from factorlm.reporting.latex import latex_report
from factorlm.reporting.report import study_report
from factorlm.reporting.sections import Page

FIGURE = "train_interactions.svg"  # of a study whose runs have these slices


@dataclass(frozen=True)
class StudyFiles:
    """What was written, and the page; None what a study lacks: tables without a comparison, the figure without bins."""

    page: Page
    html: Path
    markdown: Path | None
    latex: Path | None
    figure: Path | None


def write_study(answer: Mapping[str, Any], folder: Path) -> StudyFiles:
    """Write ``report.html``, ``report.md``, ``report.tex`` and the figure.

    Args:
        answer: of ``comparison.json``, with no protocols where there is only a sweep.
        folder: of the study, in the root of the store.
    """
    folder.mkdir(parents=True, exist_ok=True)
    page = study_page(answer, folder)
    plotly = share_plotly(folder.parent)
    html, figure = folder / "report.html", folder / FIGURE
    write_atomically(html, render(page, f"../{plotly.relative_to(folder.parent)}").encode())
    figure.unlink(missing_ok=True)
    if not answer["protocols"]:
        return StudyFiles(page, html, None, None, None)
    drawn = draw_bins(answer["protocols"], figure)
    markdown, latex = folder / "report.md", folder / "report.tex"
    write_atomically(markdown, study_report(answer, FIGURE if drawn else None).encode())
    write_atomically(latex, latex_report(answer).encode())
    return StudyFiles(page, html, markdown, latex, figure if drawn else None)
