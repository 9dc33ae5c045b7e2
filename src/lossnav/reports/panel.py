"""A report in HTML: a panel for a page, a notebook or below a picture. No script, nothing from the network."""

from __future__ import annotations

import html
from collections.abc import Mapping

from lossnav.reports.findings import LEVELS, NOTHING, Finding, Report

TITLE = "What this can and cannot say"

_BADGES = {"warning": "warning", "note": "note", "unknown": "unknown", "ok": "ok"}


def panel(reports: Mapping[str, Report], title: str = "") -> str:
    """Reports as one block of HTML with its own style.

    Parameters
    ----------
    reports : mapping of str to Report
        By a name for each, which is not shown where it is empty.
    title : str
        A heading above them.

    Returns
    -------
    str
        Warnings, notes and what is not known are open to see, what is ok is folded.
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
