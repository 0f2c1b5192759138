"""report.html: the state of a run, in one file that opens anywhere.

    results.json, predictions.parquet │
    metrics.jsonl                     │ ─▶ ReportData ─▶ scrub ─▶ render ─▶ report.html
    manifest.json, journal.sqlite     │

`page` collects and renders; each `…_section` turns one kind of file into tables;
`scrub` takes keys and this machine's folders out of every text. A report can be written
at any stage of a run.

Promised: the file requests nothing from the network (its content security policy forbids
that, and allows only our own scripts and style, by hash), and no text of a model or user
is ever parsed as markup: the template escapes, the script writes text nodes only, and
rows are JSON without any `<`.

The package is called `reporting` because `nanodistill.report` is a function.
"""

from __future__ import annotations

from nanodistill.reporting.page import Report, write_report

__all__ = ["Report", "write_report"]
