"""Figures as people read them."""

from __future__ import annotations


def dollars(cost: float | None) -> str:
    """As in "$12.50", "$0.0031", "<$0.0001" or "unknown". Only 0 is shown as 0."""
    if cost is None:
        return "unknown"
    if cost == 0 or cost >= 0.1:
        return f"${cost:,.2f}"
    return f"${cost:.4f}" if cost >= 0.0001 else "<$0.0001"


def points(share: float) -> str:
    """A share as points of 100: whole ones, or tenths below one point ("46", "0.4")."""
    value = 100 * share
    return f"{value:.1f}" if 0 < abs(value) < 1 else f"{value:.0f}"


def percent(share: float) -> str:
    """As in "46%" or "0.4%"."""
    return f"{points(share)}%"


def plural(n: int, one: str) -> str:
    """As in "1 row" or "1,200 rows"."""
    return f"{n:,} {one}" if n == 1 else f"{n:,} {one}s"
