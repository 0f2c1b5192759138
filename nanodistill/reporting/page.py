"""One HTML file from a cleaned story: styles, script, chart library and data inside it.

Its content security policy allows the two scripts' and the style's hashes and nothing else, so
that markup which got in by a mistake of ours could still run nothing and load nothing.

Writing report.html: gathered, cleaned, rendered, replaced whole.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nanodistill.config import DistillationConfig
from nanodistill.reporting.collect import ReportData, collect
from nanodistill.reporting.scrub import Scrubber
from nanodistill.run_dir import RunFolder, write_atomic

if TYPE_CHECKING:
    from jinja2 import Template


ASSETS = resources.files("nanodistill.reporting") / "assets"
STYLES = ("uPlot.min.css", "style.css")
SCRIPTS = ("uPlot.iife.min.js", "report.js")


def render(story: Mapping[str, Any], data: Mapping[str, Any]) -> str:
    """The page. `story` is what the template tells, `data` what the script draws and browses."""
    from markupsafe import Markup

    style = "\n".join(asset(name) for name in STYLES)
    scripts = [asset(name) for name in SCRIPTS]
    return _template().render(
        **story,
        policy=policy([style], scripts),
        style=Markup(style),
        scripts=[Markup(script) for script in scripts],
        data=Markup(embedded(data)),
    )


def policy(styles: list[str], scripts: list[str]) -> str:
    return "; ".join(
        [
            "default-src 'none'",
            f"script-src {' '.join(map(_hash, scripts))}",
            f"style-src {' '.join(map(_hash, styles))}",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )


def embedded(data: Mapping[str, Any]) -> str:
    """JSON that can't end the script element that it stands in, nor open anything inside."""
    written = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        written = written.replace(sign, f"\\u{ord(sign):04x}")
    return written


@cache
def asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


@cache
def _template() -> Template:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    environment = Environment(
        loader=FunctionLoader(asset),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html")


@dataclass(frozen=True)
class Report:
    """Where the report lies and what it says first. `parts` are those that it has."""

    path: Path
    verdict: str
    parts: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        return {"report": str(self.path), "verdict": self.verdict, "parts": list(self.parts)}

    def summary(self) -> str:
        return f"{self.verdict}\nReport in {self.path}"


def write_report(config: DistillationConfig, run: RunFolder) -> Report:
    """Write `run`'s report.html with what there is.

    Raises:
        InputError: nothing was done in the run yet.
        CorruptFileError: one of the run's files can't be read.
    """
    story = collect(config, run)
    told: dict[str, Any] = Scrubber.of(config).clean(asdict(story))
    page = render(told, _data(told))
    write_atomic(run.report, page.encode("utf-8", "replace"))
    return Report(run.report, told["headline"]["verdict"], _parts(story))


def _data(told: dict[str, Any]) -> dict[str, Any]:
    """What the script needs: the curves and the rows."""
    curves = {training["run"]: training["curves"] for training in told["trainings"]}
    return {"curves": curves, "rows": told["rows"]}


def _parts(story: ReportData) -> tuple[str, ...]:
    there = {
        "scores": story.scores,
        "rows": story.rows,
        "training": story.trainings,
        "dataset": story.dataset,
        "spend": story.spend,
    }
    return tuple(name for name, part in there.items() if part)
