"""The account of one challenger: what became of each event that it was to score."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from shadow_mlops.domain.events import Span, Status
from shadow_mlops.eventlog.records import ResultBatch
from shadow_mlops.monitor.sampleindex import SampleIndex
from shadow_mlops.monitor.state import AccountState, Coverage, SegmentState


@dataclass(frozen=True, slots=True)
class Results:
    """What the account needs of one result frame; the scores are not kept."""

    challenger: str
    segment: int
    """Result segment that holds the frame."""
    version: str
    swapped: bool
    """The version is the champion's, which shadowed this challenger's answers in a canary step."""
    spans: tuple[Span, ...]
    counts: tuple[int, ...]
    """Rows by :class:`~shadow_mlops.domain.events.Status`."""

    @classmethod
    def of(cls, challenger: str, segment: int, batch: ResultBatch) -> Results:
        """Count a frame's statuses."""
        counts = np.bincount(batch.statuses, minlength=len(Status))
        return cls(
            challenger,
            segment,
            batch.schema.version,
            batch.schema.swapped,
            tuple(batch.spans),
            tuple(counts.tolist()),
        )


@dataclass(frozen=True, slots=True)
class Totals:
    """One account at one moment."""

    sampled: int
    paired: int
    timed_out: int
    errored: int
    shed: int
    pending: int
    """Sampled events that no result span covers, counted from the events, not from the other figures."""

    @property
    def imbalance(self) -> int:
        """Sampled events that the other figures lack, negative where they have too many; 0 if all is well."""
        return self.sampled - self.paired - self.timed_out - self.errored - self.shed - self.pending


def totals(account: AccountState, segments: Mapping[int, SegmentState]) -> Totals:
    """Add the account up."""
    there = sum(segments[segment].sampled for segment in account.covered)
    pending = sum(segments[segment].sampled - cover.sampled for segment, cover in account.covered.items())
    return Totals(
        sampled=account.closed + there,
        paired=account.paired,
        timed_out=account.timed_out,
        errored=account.errored,
        shed=account.shed,
        pending=pending,
    )


def enter(
    account: AccountState,
    results: Results,
    segments: Mapping[int, SegmentState],
    indexes: Mapping[int, SampleIndex],
) -> list[str]:
    """Enter one result frame into the account.

    Returns
    -------
    list of str
        Contradictions between its spans and the events: rows covered twice, passed over, miscounted.
    """
    if not results.swapped:
        account.version = results.version
    account.paired += results.counts[Status.PAIRED]
    account.timed_out += results.counts[Status.TIMED_OUT]
    account.errored += results.counts[Status.ERRORED]
    problems = []
    for span in results.spans:
        if span.shed:
            account.shed += span.sampled
        cover = account.covered.get(span.segment)
        if cover is None:  # removed before the account was opened: the span is all that is known of it
            account.closed += span.sampled
        else:
            problem = _cover(cover, span, segments[span.segment], indexes.get(span.segment))
            if problem:
                problems.append(f"segment {span.segment:016x}: {problem}")
    return problems


def _cover(cover: Coverage, span: Span, segment: SegmentState, index: SampleIndex | None) -> str:
    end = span.first + span.count
    before = index.before(span.first) if index is not None else None
    after = index.before(end) if index is not None else None
    problem = ""
    if span.first < cover.rows:
        problem = f"rows {span.first} to {min(cover.rows, end)} have results twice"
    elif (before is None or after is None) and not segment.retired:
        return f"results for rows {span.first} to {end} are of no frames that the events have"
    # Of a removed segment that was counted before a restart only sums are left: the span is believed.
    before = cover.sampled if before is None or after is None else before
    after = cover.sampled + span.sampled if after is None else after
    if not problem and before != cover.sampled:
        problem = f"{before - cover.sampled} sampled events before row {span.first} were passed over"
    elif not problem and after - before != span.sampled:
        problem = f"rows {span.first} to {end} have {after - before} sampled, results say {span.sampled}"
    if end > cover.rows:
        cover.rows, cover.sampled = end, after
    return problem
