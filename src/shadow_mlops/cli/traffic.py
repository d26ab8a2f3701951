"""``shadow traffic``: send rows at a fixed rate, report their labels later, say what was seen."""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from itertools import chain, islice, repeat
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from shadow_mlops.cli.latencies import Latencies
from shadow_mlops.cli.loadclient import Exchange, Pool, run_schedule
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.trafficrows import Label, Row, accepted_fields, example_rows, file_rows, read_table
from shadow_mlops.deployment import load_deployment
from shadow_mlops.domain.errors import SettingsError
from shadow_mlops.processes.files import gateway_url
from shadow_mlops.processes.settings import load_settings

_LABELS_PER_POST = 500
_LABEL_PAUSE_SECONDS = 0.1
_EXAMPLE_ROWS = 10_000
_INTERRUPTED = 130


class Summary(msgspec.Struct, kw_only=True):
    """What a run saw; with ``--format json`` this is what is printed."""

    url: str
    seconds: float
    sent: int
    ok: int
    failed: dict[str, int]
    """HTTP status, or ``connect``, ``closed``, ``timeout``, ``protocol``, ``overflow`` -> requests."""
    latency_p50_ms: float | None
    latency_p99_ms: float | None
    latency_p999_ms: float | None
    """From the moment each request was due, answered ones only."""
    versions: dict[str, int]
    """``model_version`` -> answers."""
    labels_posted: int
    labels_failed: int
    labels_not_posted: int
    """Left over when the run was interrupted before their delay had passed."""


class Answer(msgspec.Struct):
    """What a run reads of an answer."""

    model_version: str = ""
    label: int | str | None = None


class Traffic:
    """One run against one URL.

    Parameters
    ----------
    url
        Where the gateway answers.
    rows
        What to send.
    rate
        Requests per second.
    label_delay
        Seconds from an answer to the report of its label.
    connections
        Most connections open at once.
    timeout
        Seconds after which a request is given up.
    key
        Client's key; empty: none is sent.
    seen
        Called with the number of a row, its label, and the answer it got.
    """

    def __init__(
        self,
        url: str,
        rows: Iterator[Row],
        *,
        rate: float,
        label_delay: float,
        connections: int,
        timeout: float,
        key: str = "",
        seen: Callable[[int, Label | None, Answer], None] = lambda _number, _label, _answer: None,
    ) -> None:
        self._pool = Pool(url, self._predicted, connections=connections, timeout=timeout, key=key)
        # Labels go their own way: a slow /outcomes must not take a connection from a prediction.
        self._label_pool = Pool(url, self._reported, connections=4, timeout=timeout, key=key)
        self._rows = rows
        self._rate = rate
        self._seen = seen
        self._delay = label_delay
        self._run = secrets.token_hex(6)
        self._pending: dict[str, Label] = {}
        self._due: deque[tuple[float, str, Label]] = deque()
        self._in_post: dict[str, int] = {}
        self._latencies = Latencies()
        self._failed: Counter[str] = Counter()
        self._versions: Counter[str] = Counter()
        self._labels_failed = 0
        self._labels_posted = 0
        self._decode = msgspec.json.Decoder(Answer).decode
        self._encode = msgspec.json.Encoder().encode
        self.sent = 0

    @property
    def failures(self) -> int:
        """Requests without a 2xx answer so far."""
        return self._failed.total()

    @property
    def answered(self) -> int:
        """Requests with a 2xx answer so far."""
        return self._versions.total()

    async def run(self, stop: asyncio.Event) -> Summary:
        """Send until the rows end or ``stop`` is set; then wait for answers, and for labels unless stopped.

        Raises
        ------
        UnavailableError
            If nothing listens at the URL.
        """
        await self._pool.check()
        began = time.perf_counter()
        over = asyncio.Event()
        labels = asyncio.create_task(self._report_labels(over, stop))
        try:
            await run_schedule(self._pool, self._requests(), self._rate, stop)
        finally:
            seconds = time.perf_counter() - began
            over.set()
            await labels
            await self._pool.close()
            await self._label_pool.close()
        return self._summary(seconds)

    def _requests(self) -> Iterator[Exchange]:
        for row in self._rows:
            request_id = f"{self._run}-{self.sent}"
            self.sent += 1
            if row.label is not None:
                self._pending[request_id] = row.label
            yield Exchange("/predict", row.body, request_id)

    def _predicted(self, exchange: Exchange) -> None:
        label = self._pending.pop(exchange.request_id, None)
        if exchange.failure:
            self._failed[exchange.failure] += 1
            return
        self._latencies.add(exchange.latency)
        try:
            answer = self._decode(exchange.answer)
        except msgspec.DecodeError:
            self._failed["protocol"] += 1
            return
        self._versions[answer.model_version] += 1
        self._seen(int(exchange.request_id.rpartition("-")[2]), label, answer)
        if label is not None:
            self._due.append((exchange.finished + self._delay, exchange.request_id, label))

    async def _report_labels(self, over: asyncio.Event, stop: asyncio.Event) -> None:
        posts = 0
        while not (over.is_set() and (stop.is_set() or not self._due) and not self._label_pool.unfinished):
            now = time.perf_counter()
            while self._due and self._due[0][0] <= now:
                ready = [self._due.popleft() for _ in range(min(_LABELS_PER_POST, self._ready(now)))]
                outcomes = [{"request_id": request_id, "label": label} for _, request_id, label in ready]
                name = f"{self._run}-labels-{posts}"
                posts += 1
                self._in_post[name] = len(ready)
                body = self._encode({"outcomes": outcomes})
                self._label_pool.submit(Exchange("/outcomes", body, name, scheduled=now))
            self._label_pool.sweep()
            await asyncio.sleep(_LABEL_PAUSE_SECONDS)

    def _ready(self, now: float) -> int:
        return sum(1 for _ in islice((None for due, _, _ in self._due if due <= now), _LABELS_PER_POST))

    def _reported(self, exchange: Exchange) -> None:
        count = self._in_post.pop(exchange.request_id)
        if exchange.failure:
            self._labels_failed += count
        else:
            self._labels_posted += count

    def _summary(self, seconds: float) -> Summary:
        return Summary(
            url=self._pool.url,
            seconds=round(seconds, 3),
            sent=self.sent,
            ok=self.answered,
            failed=dict(self._failed.most_common()),
            latency_p50_ms=self._latencies.quantile(0.5),
            latency_p99_ms=self._latencies.quantile(0.99),
            latency_p999_ms=self._latencies.quantile(0.999),
            versions=dict(self._versions.most_common()),
            labels_posted=self._labels_posted,
            labels_failed=self._labels_failed,
            labels_not_posted=len(self._due),
        )


async def _with_progress(traffic: Traffic, total: int | None) -> tuple[Summary, bool]:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("sending", total=total, note="")
        painter = asyncio.create_task(_paint(traffic, progress, task))
        try:
            return await traffic.run(stop), stop.is_set()
        finally:
            painter.cancel()


async def _paint(traffic: Traffic, progress: Progress, task: TaskID) -> None:
    began = time.perf_counter()
    while True:
        rate = traffic.sent / max(time.perf_counter() - began, 1e-9)
        note = f"{rate:,.0f}/s" + (f", {traffic.failures:,} failed" if traffic.failures else "")
        progress.update(task, completed=traffic.sent, note=note)
        await asyncio.sleep(0.25)


def _milliseconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} ms"


def render(summary: Summary) -> str:
    """The summary as lines for a person."""
    failed = ", ".join(f"{kind} x{count:,}" for kind, count in summary.failed.items())
    quantiles = {
        "p50": summary.latency_p50_ms,
        "p99": summary.latency_p99_ms,
        "p99.9": summary.latency_p999_ms,
    }
    latency = ", ".join(f"{name} {_milliseconds(value)}" for name, value in quantiles.items())
    lines = [
        f"sent      {summary.sent:,} in {summary.seconds:.1f} s to {summary.url}",
        f"answered  {summary.ok:,}" + "".join(f", {n:,} by {v}" for v, n in summary.versions.items() if v),
        f"failed    {sum(summary.failed.values()):,}" + (f": {failed}" if failed else ""),
        f"latency   {latency}, from the moment each request was due",
        f"labels    {summary.labels_posted:,} posted",
    ]
    if summary.labels_failed:
        lines[-1] += f", {summary.labels_failed:,} failed"
    if summary.labels_not_posted:
        lines[-1] += f", {summary.labels_not_posted:,} not yet due"
    if "429" in summary.failed:
        lines.append("hint      429 is the gateway's limit per client: raise RATE_LIMIT_REQUESTS or lower --rate")
    if "401" in summary.failed:
        lines.append("hint      401: clients need a key here (`shadow access add NAME --role client`): SHADOW_API_KEY")
    return "\n".join(lines)


def _example(count: int | None, drift_at: int | None, seed: int) -> tuple[Iterator[Row], int]:
    total = _EXAMPLE_ROWS if count is None else count
    return islice(example_rows(seed=seed, drift_at=drift_at), total), total


def _file(url: str, data: Path, target: str | None, entity: str | None, count: int | None) -> tuple[Iterator[Row], int]:
    if target is None:
        raise SettingsError("--data needs --target COL, the column of the label")
    if not data.exists():
        raise SettingsError(f"{data} does not exist")
    fields = accepted_fields(url)
    texts = [name for name, kinds in fields.items() if "string" in kinds] if fields is not None else []
    table = read_table(data, texts)
    if fields is not None and (unknown := [n for n in table.column_names if n not in {*fields, target, entity}]):
        print(f"not sent, the deployment does not take them: {', '.join(unknown)}", file=sys.stderr)

    def once() -> Iterator[Row]:
        return file_rows(table, target=target, entity=entity, accepted=fields)

    first = once()
    if count is None or not table.num_rows:
        return first, table.num_rows
    return islice(chain(first, chain.from_iterable(once() for _ in repeat(None))), count), count


def traffic(  # noqa: PLR0917 - one parameter per option
    url: Annotated[
        str | None, typer.Option(help="Where the gateway answers. [default: the one that runs on the data directory]")
    ] = None,
    data: Annotated[Path | None, typer.Option(help="CSV or Parquet file whose rows to send.")] = None,
    target: Annotated[str | None, typer.Option(help="Column of the label; reported to /outcomes, not sent.")] = None,
    entity: Annotated[str | None, typer.Option("--id", help="Column that identifies the customer.")] = None,
    example: Annotated[Literal["churn"] | None, typer.Option(help="Send customers of the bundled generator.")] = None,
    rate: Annotated[float, typer.Option(min=0.001, max=100_000, help="Requests per second.")] = 100.0,
    count: Annotated[
        int | None, typer.Option(min=1, help="Rows to send. [default: the file once, 10000 customers]")
    ] = None,
    label_delay: Annotated[float, typer.Option(min=0, help="Seconds from an answer to the report of its label.")] = 1.0,
    drift_at: Annotated[int | None, typer.Option(min=0, help="Rows after which the example's customers drift.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the example's customers.")] = 1000,
    connections: Annotated[int, typer.Option(min=1, max=4096, help="Most connections open at once.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.01, help="Seconds after which a request is given up.")] = 10.0,
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="Form of the summary.")] = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Send rows at a fixed rate, whatever the answers do, and report their labels later.

    Where clients need a key, SHADOW_API_KEY is sent. Exit code: 0 all answered, 1 some failed, 2 wrong arguments, 5
    nothing listens there, 130 interrupted.

    Example: shadow traffic --url http://127.0.0.1:8000 --example churn --rate 200 --drift-at 2500
    """
    if (data is None) == (example is None):
        raise SettingsError("give either --data FILE --target COL or --example churn")
    if data is not None and drift_at is not None:
        raise SettingsError("--drift-at needs --example churn: the rows of a file are what they are")
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    url = url or gateway_url(settings)
    if deployment is not None and entity is None:
        entity = load_deployment(deployment).entity
    rows, total = _example(count, drift_at, seed) if data is None else _file(url, data, target, entity, count)
    sender = Traffic(
        url,
        rows,
        rate=rate,
        label_delay=label_delay,
        connections=connections,
        timeout=timeout,
        key=settings.shadow_api_key.get_secret_value(),
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        summary, interrupted = runner.run(_with_progress(sender, total))
    if output == "json":
        sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(summary)) + b"\n")
    else:
        print(render(summary))
    if summary.failed or summary.labels_failed:
        raise typer.Exit(1)
    if interrupted:
        raise typer.Exit(_INTERRUPTED)
