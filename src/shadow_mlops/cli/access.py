"""``shadow access``: keys of people and programs."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal, TypeVar

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from shadow_mlops.access import Key, Role, add_key, read_keys, revoke_key
from shadow_mlops.cli.options import DataDirOption, DeploymentOption
from shadow_mlops.cli.orders import origin
from shadow_mlops.domain.deployment import Duration
from shadow_mlops.domain.errors import SettingsError, ShadowError
from shadow_mlops.processes.lifetime import only_one
from shadow_mlops.processes.settings import Settings, load_settings

app = typer.Typer(help="Keys: who may predict, look, and give orders.", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="Name of the key; the audit trail calls its holder so.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; kept in the audit trail.", show_default=False)]

_T = TypeVar("_T")


class Listed(msgspec.Struct, kw_only=True):
    """One key as ``shadow access list --format json`` prints it."""

    name: str
    role: Role
    ends: str
    added: datetime
    added_by: str
    expires: datetime | None
    expired: bool


@app.command()
def add(  # noqa: PLR0917 - one parameter per option
    name: NameArgument,
    role: Annotated[Role, typer.Option("--role", help="What it is for.")],
    expires: Annotated[
        str, typer.Option("--expires", help="Time until it is refused, such as 90d or 12h. [default: never]")
    ] = "",
    reason: ReasonOption = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Make a key and print it, this once; it works within a second, without a restart.

    Standard output has the key alone, so that a script can take it. A client predicts and reports outcomes and events;
    from the first client's key on, nobody does without one. A viewer reads what was recorded, an operator may do
    everything. Exit codes: 0 made, 1 the audit trail cannot be written, 2 wrong input, 3 there is a key of this name.

    Example: shadow access add web-shop --role client --expires 90d
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    until = _until(expires)
    told = {"key": name, "role": role, "expires": until and until.isoformat()}
    with only_one(settings.data_dir / "run" / "access.lock", "a change of the keys"):
        first = role == "client" and not _clients(settings)
        by = str(origin()["who"])
        make = _Recorded(settings, "access add", reason, told)
        key, secret = make.do(lambda: add_key(settings.data_dir, name, role, by=by, expires=until))
    print(secret)
    print(f"the key of {key.name} ({role}{_shown_until(until)}); it is not kept and not shown again", file=sys.stderr)
    if first:
        print("from now on /predict, /predict/batch, /outcomes and /events need a client's key", file=sys.stderr)


@app.command("list")
def list_keys(
    output: Annotated[Literal["text", "json"], typer.Option("--format", help="How to print it.")] = "text",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """List the keys, expired ones too; of each only its last characters.

    Exit codes: 0 listed, 2 the file of keys cannot be read.

    Example: shadow access list
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    listed = [_listed(key) for key in read_keys(settings.data_dir) or ()]
    if output == "json":
        typer.echo(msgspec.json.encode(listed).decode())
        return
    table = Table("name", "role", "ends in", "added", "by", "expires", box=None, pad_edge=False)
    for each in listed:
        until = "never" if each.expires is None else f"{each.expires:%Y-%m-%d %H:%M}Z"
        shown = f"{until} (expired)" if each.expired else until
        table.add_row(each.name, each.role, each.ends, f"{each.added:%Y-%m-%d}", each.added_by, shown)
    Console(soft_wrap=True, highlight=False, markup=False).print(table)


@app.command()
def revoke(
    name: NameArgument,
    reason: ReasonOption = "",
    deployment: DeploymentOption = None,
    data_dir: DataDirOption = None,
) -> None:
    """Take a key away; it is refused within a second, without a restart.

    Exit codes: 0 taken away, 1 the audit trail cannot be written, 2 there is none of this name.

    Example: shadow access revoke web-shop --reason "left the company"
    """
    settings = load_settings(deployment_file=deployment, data_dir=data_dir)
    with only_one(settings.data_dir / "run" / "access.lock", "a change of the keys"):
        change = _Recorded(settings, "access revoke", reason, {"key": name})
        key = change.do(lambda: revoke_key(settings.data_dir, name))
        opened = key.role == "client" and not _clients(settings)
    print(f"revoked {key.name} ({key.role}, ends in {key.ends})")
    if opened:
        print("that was the last client's key: predictions, outcomes and events are open again", file=sys.stderr)


class _Recorded:
    """A change that is in the audit trail before it is done, and what came of it after."""

    def __init__(self, settings: Settings, action: str, reason: str, details: dict[str, Any]) -> None:
        from shadow_mlops.processes.rollout import state_of  # noqa: PLC0415 - seconds that a list does without
        from shadow_mlops.state import audit  # noqa: PLC0415 - as above
        from shadow_mlops.telemetry.logs import configure_logs  # noqa: PLC0415 - as above

        configure_logs("access", level="ERROR")
        self._audit = audit
        self._state = state_of(settings)
        given = origin()
        self._number = audit.record(
            self._state,
            action=action,
            who=given["who"],
            model="",  # a key is for all that the data directory serves
            reason=reason,
            details={**given["details"], **details},
        )

    def do(self, change: Callable[[], _T]) -> _T:
        try:
            done = change()
        except ShadowError as error:
            self._audit.conclude(self._state, self._number, outcome="refused", details={"problem": str(error)})
            raise
        self._audit.conclude(self._state, self._number, outcome="done")
        return done


def _until(text: str) -> datetime | None:
    if not text:
        return None
    try:
        seconds = Duration.parse(text)
        if seconds <= 0:
            raise ValueError("it would be over at once")  # noqa: TRY301 - told like what is no duration
        return (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)
    except (ValueError, OverflowError) as error:
        raise SettingsError(f"--expires: {error}") from None


def _shown_until(until: datetime | None) -> str:
    return "" if until is None else f", until {until:%Y-%m-%d %H:%M} UTC"


def _clients(settings: Settings) -> bool:
    return any(key.role == "client" for key in read_keys(settings.data_dir) or ())


def _listed(key: Key) -> Listed:
    return Listed(
        name=key.name,
        role=key.role,
        ends=key.ends,
        added=key.added,
        added_by=key.added_by,
        expires=key.expires,
        expired=key.expired(datetime.now(UTC)),
    )
