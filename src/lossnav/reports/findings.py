"""The lines of a report: findings, each with a level, a sentence with the numbers, and advice."""

from __future__ import annotations

import html
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from lossnav._utils.jsonable import jsonable

Level = Literal["ok", "unknown", "note", "warning"]
LEVELS: tuple[Level, ...] = ("warning", "note", "unknown", "ok")  # in the order in which they are printed
LEVEL_WORDS: Mapping[Level, str] = {"warning": "WARNING", "note": "note", "unknown": "unknown", "ok": "ok"}

NOTHING = "Nothing to do."
MEASURE = "Measure it: ln.report(…, objective=objective), or lossnav report --measure."
MEASURE_WITH_CHART = (
    "Pass the chart, which the surface cannot make again: ln.report(…, objective=objective, chart=chart)."
)

_WIDTH = 100  # columns of a printed report
_INDENT = 26  # columns of level and name


@dataclass(frozen=True)
class Finding:
    """One line of a report.

    Attributes
    ----------
    check : str
        What was checked, in one to three words.
    level : "ok", "unknown", "note" or "warning"
        ``warning``: the picture is misleading without this information. ``note``: the picture does not show this.
        ``unknown``: it was not or cannot be checked; `said` begins with "Not known, because". ``ok``: checked, and as
        it should be.
    said : str
        One sentence: the reason, with the numbers.
    do : str
        One sentence: what to do.
    values : mapping of str to values
        The numbers of the sentence, as JSON values.
    """

    check: str
    level: Level
    said: str
    do: str = NOTHING
    values: Mapping[str, Any] = field(default_factory=dict)


def unknown(check: str, because: str, do: str, values: Mapping[str, Any] | None = None) -> Finding:
    """Return a finding of level ``unknown``: the reason, and how to find out."""
    return Finding(check, "unknown", f"Not known, because {because}", do, values or {})


@dataclass(frozen=True)
class Report:
    """What a picture can and cannot show; it prints as a table and displays in a notebook as a panel.

    Attributes
    ----------
    subject : str
        A description of the picture.
    lines : tuple of Finding
        In the order of the checks.

    Examples
    --------
    >>> report = Report("Line of Net", (Finding("data", "ok", "All 100 samples were used."),))
    >>> print(report)
    What this can and cannot say: Line of Net
    <BLANKLINE>
    ok       data             All 100 samples were used.
    <BLANKLINE>
    0 warnings, 0 notes, 0 not known, 1 ok
    >>> Report.from_dict(report.to_dict()) == report
    True
    """

    subject: str
    lines: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings of level ``warning``."""
        return self.of("warning")

    @property
    def notes(self) -> tuple[Finding, ...]:
        """The findings of level ``note``."""
        return self.of("note")

    @property
    def unknowns(self) -> tuple[Finding, ...]:
        """The findings of level ``unknown``."""
        return self.of("unknown")

    @property
    def counts(self) -> dict[str, int]:
        """The number of findings of each level."""
        return {level: len(self.of(level)) for level in LEVELS}

    def of(self, level: Level) -> tuple[Finding, ...]:
        """Return the findings of a level, in the order of the checks."""
        return tuple(line for line in self.lines if line.level == level)

    def __getitem__(self, check: str) -> Finding:
        """Return the finding of a check by its name; KeyError if there is none."""
        for line in self.lines:
            if line.check == check:
                return line
        raise KeyError(check)

    def __contains__(self, check: object) -> bool:
        return any(line.check == check for line in self.lines)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values; numbers that JSON lacks are the strings "inf", "-inf", "nan"."""
        lines = [
            {name: getattr(line, name) for name in ("check", "level", "said", "do", "values")} for line in self.lines
        ]
        return dict(jsonable({"subject": self.subject, "counts": self.counts, "lines": lines}))

    def to_json(self) -> str:
        """Return the report as one JSON object."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False)

    @classmethod
    def from_dict(cls, said: Mapping[str, Any]) -> Report:
        """Make the report from the result of `to_dict`."""
        return cls(said["subject"], tuple(Finding(**line) for line in said["lines"]))

    def summary(self) -> str:
        """Return the numbers of warnings, notes and others as text."""
        counts = self.counts
        words = [f"{counts[level]} {level}{'' if counts[level] == 1 else 's'}" for level in ("warning", "note")]
        return ", ".join([*words, f"{counts['unknown']} not known", f"{counts['ok']} ok"])

    def __str__(self) -> str:
        blocks = [f"What this can and cannot say: {self.subject}", ""]
        for level in LEVELS:
            for line in self.of(level):
                blocks.append(_wrapped(line.said, f"{LEVEL_WORDS[level]:<8} {line.check:<16} "))
                if line.do != NOTHING:
                    blocks.append(_wrapped(f"→ {line.do}", " " * _INDENT, "  "))
        return "\n".join([*blocks, "", self.summary()])

    def _repr_html_(self) -> str:
        return panel({"": self})


def _wrapped(text: str, first: str, hanging: str = "") -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=first, subsequent_indent=" " * _INDENT + hanging, break_long_words=False
    )


# ---------------------------------------------------------------------- HTML, without scripts or network access

TITLE = "What this can and cannot say"

_BADGES = {"warning": "warning", "note": "note", "unknown": "unknown", "ok": "ok"}


def panel(reports: Mapping[str, Report], title: str = "") -> str:
    """Return reports as one block of HTML with its own style.

    Parameters
    ----------
    reports : mapping of str to Report
        By their names; an empty name is not shown.
    title : str
        A heading above them.

    Returns
    -------
    str
        Warnings, notes and unknowns are visible; lines that are ok are folded.
    """
    heading = f"<h2>{html.escape(title)}</h2>" if title else ""
    blocks = "".join(_report(name, report) for name, report in reports.items())
    return f'<div class="lossnav-report"><style>{_STYLE}</style>{heading}{blocks}</div>'


def _report(name: str, report: Report) -> str:
    head = f"<b>{html.escape(name)}</b> " if name else ""
    seen = "".join(_row(line) for level in LEVELS[:-1] for line in report.of(level))
    good = "".join(_row(line) for line in report.of("ok"))
    folded = f"<details><summary>{report.counts['ok']} ok</summary><table>{good}</table></details>" if good else ""
    return (
        f"<h3>{head}<span>{html.escape(report.subject)}: {html.escape(report.summary())}</span></h3>"
        f"<table>{seen}</table>{folded}"
    )


def _row(line: Finding) -> str:
    do = f"<p>→ {html.escape(line.do)}</p>" if line.do != NOTHING else ""
    return (
        f'<tr class="{line.level}"><td><i>{_BADGES[line.level]}</i></td><th>{html.escape(line.check)}</th>'
        f"<td>{html.escape(line.said)}{do}</td></tr>"
    )


_STYLE = """
.lossnav-report { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #1d2530; background: #fff; max-width: 62rem; }
.lossnav-report h3 { font-size: 1rem; margin: 1.25rem 0 .5rem; }
.lossnav-report h3 b { font-family: ui-monospace, Menlo, monospace; margin-right: .5rem; }
.lossnav-report h3 span { font: 15px/1.5 Helvetica, Arial, sans-serif; color: #5d6875; }
.lossnav-report table { border-collapse: collapse; width: 100%; }
.lossnav-report td, .lossnav-report th { vertical-align: top; text-align: left; padding: .3rem .75rem .3rem 0;
  border-top: 1px solid #e3e7ec; background: none; }
.lossnav-report td:first-child { width: 5.5rem; }
.lossnav-report th { width: 9rem; font-weight: 600; color: #1d2530; white-space: nowrap; }
.lossnav-report i { font-style: normal; font-size: .8rem; padding: .05rem .5rem; border-radius: 1rem; }
.lossnav-report .warning i { background: #b3261e; color: #fff; }
.lossnav-report .note i { background: #e8eefc; color: #1f3f8f; }
.lossnav-report .unknown i { background: #f1f1f1; color: #5d6875; white-space: nowrap; }
.lossnav-report .ok i { background: #e6f4ea; color: #1e6b34; }
.lossnav-report p { margin: .1rem 0 0; max-width: none; color: #5d6875; }
.lossnav-report summary { cursor: pointer; padding: .4rem 0; color: #5d6875; border-top: 1px solid #e3e7ec; }
"""
