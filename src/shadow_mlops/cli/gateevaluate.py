"""``shadow gate evaluate``: what the gate's rule says of a version on recorded pairs, replayed ones included."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
import typer
from rich.console import Console

from shadow_mlops.cli.envlines import EnvOption, append_lines
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.replay import moment
from shadow_mlops.domain.errors import ConflictError, SettingsError
from shadow_mlops.processes.settings import load_settings
from shadow_mlops.telemetry.logs import configure_logs

if TYPE_CHECKING:  # DuckDB, Arrow and SQLAlchemy take a second to import: only who asks pays for them
    from shadow_mlops.rollout.evaluating import Evaluation

_WORDS = {"promote": "promote", "reject": "reject", "keep_watching": "keep watching"}


class _Trained(msgspec.Struct):
    """What is needed of the output of ``shadow retrain train``."""

    version: str | None = None
    replayed_since: str | None = None
    replay_problem: str = ""


def evaluate(  # noqa: PLR0917 - one parameter per option
    version: Annotated[str, typer.Argument(help="Human version; or take it from --trained.")] = "",
    since: Annotated[
        str, typer.Option(help="Events from this time on: 2026-01-31T12:00:00Z, 2026-01-31, or an age: 24h.")
    ] = "",
    until: Annotated[str, typer.Option(help="Events before this time. [default: now]")] = "",
    trained: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Version and --since from what `shadow retrain train --replay` printed.",
            show_default=False,
        ),
    ] = None,
    output: Annotated[Literal["text", "json", "markdown"], typer.Option("--format", help="How to print it.")] = "text",
    env: EnvOption = None,
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Judge a version against the champion on recorded, labelled pairs, replayed ones included, by the gate's rule.

    One look, for which no gate moves: no evidence is recorded, nothing is promoted. It holds only on rows that the
    version was not trained on. Where no monitor runs, what the log holds is archived first.

    Exit codes: 0 told, whatever the decision, 1 log or lake fails, 2 wrong arguments, 3 no pairs in the span, the
    version is the champion, or no gate, 4 no such version or no answer from the registry, 5 the monitor is behind.

    Example: shadow gate evaluate 3.1.0 --since 7d
    """
    from shadow_mlops.processes import evaluating  # noqa: PLC0415 - as above

    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    configure_logs("gate", level="ERROR")  # standard output is the answer's
    version, first = _asked(version, since, trained)
    last = moment(until, "--until") if until else datetime.now(UTC)
    found = evaluating.run(settings, version, since=first, until=last)
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(as_json(found))) + b"\n")
    elif output == "markdown":
        print("\n".join(markdown(found)))
    else:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for line in text(found):
            console.print(line)
    decision = found.decision
    append_lines(
        env,
        {
            "version": found.version,
            "champion": found.champion_version,
            "decision": decision.decision,
            "estimate": decision.estimate,
            "e_value": decision.e_value,
            "labelled": decision.labelled,
        },
    )


def as_json(found: Evaluation) -> dict[str, Any]:
    """An evaluation as scripts read it: what ``shadow gate status`` has of a gate at the top."""
    from shadow_mlops.rollout.evaluating import HONEST_ON  # noqa: PLC0415 - as above

    whole: dict[str, Any] = msgspec.to_builtins(found)
    return {**whole.pop("decision"), **whole, "note": HONEST_ON}


def text(found: Evaluation) -> Iterator[str]:
    """An evaluation as lines for a terminal."""
    yield f"{found.version} against champion {found.champion_version}: {_WORDS[found.decision.decision]}"
    for reason in found.decision.reasons:
        yield f"  {reason}"
    facts = list(_facts(found))
    wide = max(len(name) for name, _ in facts)
    yield from (f"  {name:<{wide}}  {value}" for name, value in facts)
    yield "figures on the same labelled pairs, champion and challenger:"
    yield from (f"  {name:<{wide}}  {ours:>10}  {theirs:>10}" for name, ours, theirs in _figures(found))
    yield from _notes(found)


def markdown(found: Evaluation) -> Iterator[str]:
    """An evaluation as Markdown, for the summary of a CI run."""
    yield f"### Gate on recorded traffic: {_WORDS[found.decision.decision]}"
    yield ""
    yield f"Version {_code(found.version)} against champion {_code(found.champion_version)}."
    yield ""
    yield from (f"- {reason}" for reason in found.decision.reasons)
    yield from ("", "| | |", "|---|---|")
    yield from (f"| {name} | {value} |" for name, value in _facts(found))
    yield from ("", f"| on the same {found.labelled_pairs:,} pairs | champion | challenger |", "|---|---:|---:|")
    yield from (f"| {name} | {ours} | {theirs} |" for name, ours, theirs in _figures(found))
    for note in _notes(found):
        yield from ("", note)


def _asked(version: str, since: str, trained: Path | None) -> tuple[str, datetime]:
    if trained is not None:
        if version or since:
            raise SettingsError("give VERSION and --since, or --trained FILE")
        told = _told(trained)
        version, since = told.version or "", told.replayed_since or ""
        if not version:
            raise SettingsError(f"--trained {trained} names no version: it is of a dry run")
        if told.replay_problem:
            raise ConflictError(f"the replay of version {version} failed: {told.replay_problem}")
        if not since:
            raise SettingsError(
                f"--trained {trained}: version {version} was trained on all there is; train with --replay SPAN, which"
                " leaves rows to judge it on"
            )
    if not version or not since:
        raise SettingsError("name a VERSION and --since T, or --trained FILE")
    return version, moment(since, "--since")


def _told(trained: Path) -> _Trained:
    try:
        return msgspec.json.decode(trained.read_bytes(), type=_Trained)
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"--trained {trained} is not what `shadow retrain train` printed ({error}): redirect its output there"
        ) from error


def _facts(found: Evaluation) -> Iterator[tuple[str, str]]:
    decision = found.decision
    interval = "not yet shown" if decision.interval is None else "{:+.5g} to {:+.5g}".format(*decision.interval)
    yield "span", f"{found.since} to {found.until}"
    yield "metric", decision.metric.replace("_", " ")
    yield "mean difference", "-" if decision.estimate is None else f"{decision.estimate:+.5g}"
    yield "confidence sequence", interval
    yield "evidence", f"{decision.e_value:.4g}, needed {1 / found.alpha:g} (harm: {decision.e_value_harm:.4g})"
    yield "values", f"{decision.labelled:,}, one for each entity; at least {found.min_labels:,}"
    yield "pairs", f"{found.pairs:,} of {found.requests:,} sampled requests, {found.replayed:,} replayed"
    yield "labelled", f"{found.labelled_pairs:,} pairs ({found.label_coverage:.1%})"
    for guard in decision.guardrails:
        yield f"guardrail {guard.name}", f"{guard.state}, evidence {guard.e_value:.4g}"


def _figures(found: Evaluation) -> Iterator[tuple[str, str, str]]:
    from shadow_mlops.comparison.html import FIGURES  # noqa: PLC0415 - as above

    for name, key in FIGURES[found.task].items():
        yield name, _figure(getattr(found.champion, key)), _figure(getattr(found.challenger, key))


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:,.4f}"


def _notes(found: Evaluation) -> Iterator[str]:
    from shadow_mlops.domain.deployment import SERVICE_GUARDRAILS  # noqa: PLC0415 - as above
    from shadow_mlops.rollout.evaluating import HONEST_ON  # noqa: PLC0415

    yield HONEST_ON
    yield "One look: no evidence is recorded, no gate has moved, nothing is promoted."
    names = {guard.name.partition(",")[0] for guard in found.decision.guardrails}
    if found.replayed and names & set(SERVICE_GUARDRAILS):
        yield "Errors, time-outs and latency of replayed pairs are those of the replay, not of serving."


def _code(value: str) -> str:
    # versions are texts of whoever registers them: no markup of theirs is to be rendered
    return f"`{value.replace('`', '')}`"
