"""What is known of a version's quality, in the words of card, report and terminal alike."""

from __future__ import annotations

from collections.abc import Iterator

from nanodistill.dataset.manifest import Agreement, Manifest

DUPLICATES = ("duplicate", "near_duplicate")
NOT_MEASURED = "not measured"


def quality_facts(manifest: Manifest) -> list[tuple[str, str]]:
    """Each check with what it found, and those that were not made as "not measured".

    Example:
        >>> from nanodistill.dataset import open_version
        >>> quality_facts(open_version("outputs/quickstart/datasets/v0001").manifest)[0]
        ... # doctest: +SKIP
        ('blind check of the seeds', 'the teacher agrees on 11 of 12 (95%: 65% to 99%)')
    """
    return list(_facts(manifest))


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    if manifest.made_by == "synthesis" or manifest.agreement is not None:
        yield "blind check of the seeds", _agreement(manifest.agreement)
    if manifest.made_by == "synthesis" or manifest.recheck is not None:
        yield "label noise", _label_noise(manifest.recheck)
    if (measured := manifest.statistics.confidence) is not None:
        mean, lowest = measured
        what = f"{mean:.0%} of a row's answers gave its output on average, {lowest:.0%} at least"
        yield "confidence", what
    if manifest.stages:  # an edit has none, and nothing was compared for it
        rejected = manifest.counts.rejected
        exact, near = (rejected.get(reason, 0) for reason in DUPLICATES)
        threshold = manifest.config.get("near_duplicate_threshold")
        alike = "" if threshold is None else f" (similarity of {threshold:g} or more)"
        yield "duplicates rejected", f"{exact} exact, {near} near{alike}"
        if manifest.has_test:
            found = rejected.get("contaminated", 0)
            yield "contamination rejected", f"{found} rows were a test row or too close to one"
    if manifest.cues:
        yield "gives the answer away", "; ".join(cue.rstrip(".") for cue in manifest.cues)


def _agreement(found: Agreement | None) -> str:
    if found is None:
        return NOT_MEASURED
    interval = f"95%: {found.low:.0%} to {found.high:.0%}"
    return f"the teacher agrees on {found.agreed} of {found.of} ({interval})"


def _label_noise(found: Agreement | None) -> str:
    if found is None:
        return NOT_MEASURED
    differ = found.of - found.agreed
    interval = f"95%: {1 - found.high:.0%} to {1 - found.low:.0%}"
    return (
        f"{differ} of {found.of} generated rows got another answer the second time, blind: "
        f"{differ / found.of:.0%} ({interval})"
    )
