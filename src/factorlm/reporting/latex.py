"""Tables for a paper: LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from factorlm.reporting.tables import Cells, cost, effects, quality
from factorlm.reporting.verdict import barred

SPECIAL = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "|": r"\textbar{}", "±": r"$\pm$", "–": "--", "<": "$<$",
    ">": "$>$", "≥": r"$\geq$", "≤": r"$\leq$", "*": "$^{*}$",
}  # fmt: skip
INTERVAL = "95 % interval"


def latex_report(answer: Mapping[str, Any]) -> str:
    """The tables of a study, from its ``comparison.json``: quality, effects and cost under each protocol."""
    parts = [r"% \usepackage{booktabs}; * differs from the baseline, as the captions say"]
    for protocol, comparison in answer["protocols"].items():
        metric, baseline = comparison["metric"], comparison["baseline"]
        where = f"{answer['study']}, {protocol}: {comparison['users']} users, {len(comparison['seeds'])} seeds"
        bar = f"{barred(comparison)}. " if barred(comparison) else ""
        captions = {
            "quality": (
                quality(comparison, written=True),
                f"Mean ± standard deviation over seeds ({where}). * differs from {baseline}: p < 0.05 after Holm for "
                f"{metric}, q < 0.05 after Benjamini and Hochberg for other metrics.",
            ),
            "effects": (
                effects(comparison),
                f"Difference to {baseline} in {metric}, with 95 % intervals for new users and new seeds ({where}).",
            ),
            "cost": (cost(comparison), f"Cost ({where}). * on the front of {metric} against training time."),
        }
        for name, (cells, caption) in captions.items():
            if len(cells) > 1:
                parts.append(latex(cells, bar + caption, f"tab:{answer['study']}-{protocol}-{name}"))
    return "\n\n".join(parts) + "\n"


def latex(cells: Cells, caption: str, label: str) -> str:
    """A table with a caption above.

    >>> print(latex([["arm", "ndcg@10"], ["text_fm", "0.1055* ±0.0028"]], "Text & ids", "tab:text"))
    \\begin{table}[t]
    \\centering\\small
    \\caption{Text \\& ids}
    \\label{tab:text}
    \\begin{tabular}{lr}
    \\toprule
    arm & ndcg@10 \\\\
    \\midrule
    text\\_fm & 0.1055$^{*}$ $\\pm$0.0028 \\\\
    \\bottomrule
    \\end{tabular}
    \\end{table}
    """
    head, *rows = cells
    intervals = [name == INTERVAL for name in head]
    lines = [[_number(cell, interval) for cell, interval in zip(row, intervals, strict=True)] for row in [head, *rows]]
    first, *others = (" & ".join(line) + r" \\" for line in lines)
    anchor = re.sub(r"[^\w:@.-]", "-", label)
    body = [r"\toprule", first, r"\midrule", *others, r"\bottomrule"]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\small",
            rf"\caption{{{escape(caption)}}}",
            rf"\label{{{anchor}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            *body,
            r"\end{tabular}",
            r"\end{table}",
        ]
    )


def escape(text: str) -> str:
    """Text as LaTeX shows it."""
    return "".join(SPECIAL.get(character, character) for character in text)


def _number(cell: str, interval: bool) -> str:
    """A cell; an interval gets brackets, and a sign its length."""
    if interval and cell != INTERVAL:
        cell = f"[{cell.replace(' ', ', ')}]"
    return re.sub(r"(^|\[|, )-(?=[.\d])", r"\1$-$", escape(cell))
