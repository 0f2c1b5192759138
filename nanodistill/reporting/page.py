"""One HTML file from a cleaned story: styles, script, chart library and data inside it.

Its content security policy allows the two scripts' and the style's hashes and nothing else, so
that markup which got in by a mistake of ours could still run nothing and load nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

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
