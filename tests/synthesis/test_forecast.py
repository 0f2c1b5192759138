from __future__ import annotations

from nanodistill.engine.usage import UsageStats
from nanodistill.synthesis.cost_preview import ProgressForecast


def test_what_is_left_goes_by_the_last_rounds() -> None:
    account, now = UsageStats(), 0.0
    forecast = ProgressForecast(1000, account, clock=lambda: now)
    assert forecast.progress(0).seconds_left is None
    now = 0.5
    reused = forecast.progress(500)
    assert (reused.seconds_left, dict(reused.figures)) == (0.5, {})
    for filled in (600, 700, 800, 900):
        now += 30.0
        account.cost_usd += 2.0
        told = forecast.progress(filled)
    assert told.seconds_left == 30.0
    assert told.figures == {"estimated total": "$10.00"}
    assert forecast.progress(1000).seconds_left is None


def test_dollars_that_are_not_known_are_not_forecast() -> None:
    account, now = UsageStats(unpriced=1), 0.0
    forecast = ProgressForecast(10, account, clock=lambda: now)
    forecast.progress(0)
    now = 5.0
    assert forecast.progress(5).figures == {}


def test_dollars_of_rows_that_are_not_read_yet_are_theirs() -> None:
    account, now = UsageStats(), 0.0
    forecast = ProgressForecast(400, account, clock=lambda: now)
    forecast.progress(0)
    now, account.cost_usd = 5.0, 2.0
    assert forecast.progress(100, ahead=100).figures == {"estimated total": "$4.00"}
