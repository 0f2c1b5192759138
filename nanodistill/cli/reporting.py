"""The command that shows what a run came to."""

from __future__ import annotations

from nanodistill.cli.command import Ending, Work, command


@command("report")
def report(work: Work) -> Ending:
    """Write report.html, one file, with what the run has so far."""
    from nanodistill import api

    written = api.report(work.config)
    return Ending(written.to_json(), written.summary())
