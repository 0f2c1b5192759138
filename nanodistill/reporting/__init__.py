"""report.html: what a run came to, in one file that opens anywhere.

    results.json, predictions.parquet │
    metrics.jsonl                     │ ─▶ ReportData ─▶ scrub ─▶ page ─▶ report.html
    manifest.json, journal.sqlite     │

Each module reads one room's files and tells them as plain figures; `collect` puts
them together, `scrub` takes keys and folders of this machine out of every text, `page`
renders. The file is written at any stage with what there is.

Promised: nothing in the file asks the network for anything (its content security policy
forbids it, and allows no script or style but our own, by hash), and no text of a model or a
user is ever read as markup: the template escapes by itself, the script writes text nodes
alone, and the rows are JSON in which no `<` stands.

It is called `reporting`, for `report` is the function that the package exports.
"""

from __future__ import annotations

from nanodistill.reporting.page import Report, write_report

__all__ = ["Report", "write_report"]
