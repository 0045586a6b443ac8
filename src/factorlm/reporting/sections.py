"""What a page holds before it is HTML: sections of text, tables and charts."""

from __future__ import annotations

from dataclasses import dataclass, field

from factorlm.reporting.charts import Chart
from factorlm.reporting.tables import Cells


@dataclass
class Part:
    """One heading of a section: notes, charts, tables by their caption, and facts by their name.

    Attributes:
        folded: tables that are shown when they are asked for.
    """

    title: str
    notes: list[str] = field(default_factory=list)
    charts: list[Chart] = field(default_factory=list)
    tables: dict[str, Cells] = field(default_factory=dict)
    folded: dict[str, Cells] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)


@dataclass
class Section:
    """A protocol, or the sweep.

    Attributes:
        answer: of the section in one sentence.
        warnings: what a reader must know before any number.
        sentences: of the verdict.
    """

    title: str
    answer: str
    parts: list[Part]
    warnings: list[str] = field(default_factory=list)
    sentences: list[str] = field(default_factory=list)


@dataclass
class Page:
    """A study: its arms and slices are what the reader can choose from."""

    study: str
    question: str
    overrides: list[str]
    sections: list[Section]
    arms: list[str]
    slices: list[str]
    how_to_read: list[str]
