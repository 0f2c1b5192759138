"""How many slots each round of structured generation takes.

Rounds begin small, so that calls soon know of earlier rows to keep away from, and grow by a
quarter of what was taken before. How many rows are wanted in all has no part in that: a run
that wants more later takes the same first rounds, and their answers are in the journal. Only
where growing alone would not be through in three quarters of `max_rounds` are all rounds larger.
"""

from __future__ import annotations

from math import ceil

SMALLEST_ROUND = 128
GROWTH = 4


def round_size(number: int, *, taken: int, left: int, wanted: int, max_rounds: int) -> int:
    """Slots of the round of this `number`, from 1.

    `taken` were in rounds before it, `left` are still open of those `wanted`.
    """
    main = max(1, max_rounds * 3 // 4)
    if number > main:
        return max(SMALLEST_ROUND, left)
    grown = max(SMALLEST_ROUND, taken // GROWTH)
    return grown if _reach(main) >= wanted else max(grown, ceil(wanted / main))


def _reach(rounds: int) -> int:
    """Slots that so many rounds take if they grow by themselves."""
    taken = 0
    for _ in range(rounds):
        taken += max(SMALLEST_ROUND, taken // GROWTH)
    return taken
