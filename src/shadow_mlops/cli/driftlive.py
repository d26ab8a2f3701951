"""``shadow drift watch`` and ``shadow drift baseline``: live drift in a terminal, and what it is measured against."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import msgspec
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shadow_mlops.cli.driftrules import deployment_in_force
from shadow_mlops.cli.exits import ErrorsExitTwo
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.orders import origin
from shadow_mlops.cli.replay import moment
from shadow_mlops.domain.errors import DriftError, SettingsError, UnavailableError
from shadow_mlops.drift.wording import printable, sentence
from shadow_mlops.processes.settings import Settings, load_settings

if TYPE_CHECKING:  # SciPy and DuckDB take a second to import: only who looks pays for them
    from shadow_mlops.drift.livereport import LiveDrift
    from shadow_mlops.drift.report import Score
    from shadow_mlops.state.episodes import Episode

_ANSWER_SECONDS = 10.0
_STYLES = {"none": "green", "alert": "yellow", "retrain": "red"}
_MOST_EPISODES = 5


def watch(  # noqa: PLR0917 - one parameter per option
    url: Annotated[
        str, typer.Option(help="Address of a gateway; by default the data directory is read.", show_default=False)
    ] = "",
    every: Annotated[float, typer.Option(min=0.1, max=3600, help="Seconds between two looks.")] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once; so does a pipe.")] = False,
    form: Annotated[Literal["table", "json"], typer.Option("--format", help="json: once, for scripts.")] = "table",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Show how far live traffic is from its reference, again and again until Ctrl-C.

    Exit codes: 0 shown, 2 nobody watches drift there, or another error.

    Example: shadow drift watch --url http://127.0.0.1:8000
    """
    with ErrorsExitTwo():
        settings = load_settings(deployment_file=deployment, data_dir=data_dir)
        console = Console(highlight=False)
        if form == "json" or once or not console.is_terminal:
            _show_once(_look(settings, url), form, console)
            return
        try:
            with Live(console=console, auto_refresh=False, screen=False) as live:
                while True:
                    try:
                        shown: RenderableType = Group(*rendered(_look(settings, url)))
                    except UnavailableError as error:  # it may come, or come back
                        shown = Text(f"{error}; looking again every {every:g} s", style="yellow")
                    live.update(shown, refresh=True)
                    time.sleep(every)
        except KeyboardInterrupt:
            return


def baseline(  # noqa: PLR0917 - one parameter per option
    action: Annotated[
        Literal["clear"] | None,
        typer.Argument(help="clear: take the rows kept with the version again.", show_default=False),
    ] = None,
    source: Annotated[
        str,
        typer.Option("--from", metavar="FILE", help="Rows: CSV, Parquet, a glob, or the URL of an SQL table."),
    ] = "",
    since: Annotated[
        str, typer.Option(help="Recorded traffic from this time on: a time, a date, or an age such as 7d.")
    ] = "",
    until: Annotated[str, typer.Option(help="Recorded traffic before this time.")] = "",
    reason: Annotated[str, typer.Option(help="Why, for the audit trail.")] = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Measure drift of the serving version against other rows than those kept with it; alone: say which are set.

    Holds from the next bucket on and for this version, whenever it is champion; windows begin anew, open episodes end.
    Exit codes: 0 done, 2 an error: nothing has changed.

    Example: shadow drift baseline --since 7d --reason "a usual week"
    """
    with ErrorsExitTwo():
        settings = load_settings(deployment_file=deployment, data_dir=data_dir)
        if action == "clear":
            if source or since or until:
                raise SettingsError("clear takes no rows: leave --from, --since and --until out")
            _clear(settings, reason)
        elif source or since:
            if source and (since or until):
                raise SettingsError("give either --from FILE or --since T")
            _set(settings, source, since, until, reason)
        elif until:
            raise SettingsError("--until needs --since")
        else:
            _tell(settings)


def rendered(report: LiveDrift) -> list[RenderableType]:
    """The newest window as a person looks at it again and again: what moved most first."""
    head = Text.assemble((report.verdict, f"bold {_STYLES[report.verdict]}"), f": {sentence(report.reason)}")
    parts: list[RenderableType] = [head]
    if report.window is not None:
        words = (
            f"{report.deployment} {report.version}: {report.window.rows:,} rows, {report.window.since} to"
            f" {report.window.until}, against {report.reference_in_force.words}"
        )
        parts.append(Text(sentence(words)))
    if report.features:
        parts += ["", _table(report)]
    if report.episodes:
        parts += ["", *(_episode(each) for each in report.episodes[:_MOST_EPISODES])]
    parts += _beside(report)
    return parts


def _table(report: LiveDrift) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("feature", "PSI", "KS", "JS", "p", "alarm level", ""):
        table.add_column(name, justify="left" if name in {"feature", ""} else "right", no_wrap=True)
    scores: dict[str, dict[str, Score]] = {}
    for score in report.scores:
        scores.setdefault(score.feature, {})[score.method] = score
    drifting = {each.feature for each in report.episodes if each.closed_bucket is None}
    for feature in report.features:
        own = scores.get(feature.name, {})
        level = report.detector.levels.get(feature.name, 0.0) / (report.detector.alarm_level or 1.0)
        state = Text("drifting", "red") if feature.name in drifting else Text("moved" if feature.significant else "")
        cells = [_cell(own.get(method)) for method in ("psi", "ks", "js")]
        table.add_row(Text(printable(feature.name)), *cells, f"{feature.p_value:.2g}", f"{level:.2g}", state)
    return table


def _cell(score: Score | None) -> Text:
    return Text("-") if score is None else Text(f"{score.score:.3f}", "bold yellow" if score.alert else "")


def _episode(episode: Episode) -> Text:
    end = "open" if episode.closed_at is None else f"until {episode.closed_at}"
    return Text(f"{printable(episode.feature)} drifted from {episode.opened_at}, {end}")


def _beside(report: LiveDrift) -> list[RenderableType]:
    parts: list[RenderableType] = []
    errors = report.error_rate
    if errors is not None and errors.value is not None:
        before = "" if errors.reference is None else f" (held-out rows: {errors.reference:.3f})"
        parts.append(f"{errors.measure.replace('_', ' ')} {errors.value:.3f} of {errors.labelled:,} labelled{before}")
    for each in report.challengers:
        told = ", ".join(f"{score.method.upper()} {score.score:.3f}" for score in each.scores) or each.reason
        parts.append(Text(sentence(f"score of challenger {each.name} {each.version}: {told}")))
    failed = sum(each.failed for each in report.alerts)
    if failed:
        parts.append(Text(f"{failed} alerts could not be delivered: look at the monitor's log", "red"))
    return ["", *parts] if parts else []


def _show_once(report: LiveDrift, form: str, console: Console) -> None:
    if form == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
        return
    for part in rendered(report):
        console.print(part)


def _look(settings: Settings, url: str) -> LiveDrift:
    from shadow_mlops.processes.drifting import drift_told  # noqa: PLC0415 - as above

    return _asked(url, settings) if url else drift_told(settings.data_dir, with_values=True)


def _asked(url: str, settings: Settings) -> LiveDrift:
    from shadow_mlops.drift.livereport import LiveDrift  # noqa: PLC0415 - as above

    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"--url takes an address such as http://127.0.0.1:8000, not {url!r}")
    token = settings.operator_token.get_secret_value()
    request = Request(f"{url.rstrip('/')}/drift", headers={"Authorization": f"Bearer {token}"} if token else {})  # noqa: S310 - as checked above
    try:
        with urlopen(request, timeout=_ANSWER_SECONDS) as answer:  # noqa: S310 - as above
            return msgspec.json.decode(answer.read(), type=LiveDrift)
    except HTTPError as error:
        raise UnavailableError(f"{url} answered {error.code}: {_said(error.read())}") from None
    except (URLError, OSError) as error:
        raise UnavailableError(f"{url} does not answer: {error}") from None
    except msgspec.DecodeError as error:
        raise DriftError(f"{url}/drift is no drift report: {error}") from None


def _said(body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["error"]["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return "an answer that is none of this platform's"


def _set(settings: Settings, source: str, since: str, until: str, reason: str) -> None:
    from shadow_mlops.drift.archived import archived  # noqa: PLC0415 - as above
    from shadow_mlops.drift.opening import open_source  # noqa: PLC0415 - as above
    from shadow_mlops.processes.baselines import champion_of, set_baseline  # noqa: PLC0415 - as above

    stated = deployment_in_force(settings)
    champion = champion_of(settings)
    given = origin()
    more = {"bins": stated.drift.bins if stated else 10, "reason": reason, "who": given["who"]}
    if source:
        details = {**given["details"], "from": source}
        found = set_baseline(settings, champion, open_source(source), words=source, details=details, **more)
    else:
        first, last = moment(since, "--since"), moment(until, "--until") if until else datetime.now(UTC)
        if first >= last:
            raise SettingsError("--since must be before --until")
        details = {**given["details"], "since": first.isoformat(), "until": last.isoformat()}
        with archived(settings.data_dir / "lake", champion.identity, since=first, until=last) as rows:
            found = set_baseline(settings, champion, rows.whole, words=rows.words, details=details, **more)
    print(
        f"{found.model} {found.version} is measured against {found.rows:,} rows from the next bucket on: {found.source}"
    )


def _clear(settings: Settings, reason: str) -> None:
    from shadow_mlops.processes.baselines import champion_of, drop_baseline  # noqa: PLC0415 - as above

    champion = champion_of(settings)
    if drop_baseline(settings, champion.identity.model, reason=reason, **origin()):
        print(f"{champion.identity.model} is measured against the rows kept with its version from the next bucket on")
    else:
        print("no baseline is set: the rows kept with the version are the reference")


def _tell(settings: Settings) -> None:
    from shadow_mlops.processes.baselines import baseline_now  # noqa: PLC0415 - as above

    found = baseline_now(settings)
    if found is None:
        print("no baseline is set: the rows kept with the version are the reference")
        return
    why = f", because: {found.reason}" if found.reason else ""
    print(
        f"{found.model} {found.version}: {found.rows:,} rows of {found.source}, set by {found.who} at {found.at}{why}"
    )
