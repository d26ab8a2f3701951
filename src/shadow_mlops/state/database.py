"""Opening the database, and bringing its tables up to date."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy import Connection, Engine, NullPool, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from shadow_mlops.domain.errors import StateError

BUSY_SECONDS = 10.0
"""How long a SQLite transaction waits for another process's to end; each takes milliseconds."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_UPGRADE_LOCK = 7_426_691_433  # any number that nobody else locks


def open_state(url: str) -> Engine:
    """Connect to the database; its tables are not touched (see :func:`upgrade`).

    Parameters
    ----------
    url
        SQLAlchemy URL. A SQLite file is made if it is absent, and never switched to WAL: a file that is shared
        between processes of different priorities must not need its readers to clean up after writers.

    Raises
    ------
    StateError
        If the URL is no URL, its driver is not installed, or the folder of a SQLite file cannot be made.
    """
    try:
        parsed = make_url(url)
        if parsed.get_backend_name() != "sqlite":
            return create_engine(parsed, pool_pre_ping=True)
        if parsed.database:
            Path(parsed.database).absolute().parent.mkdir(parents=True, exist_ok=True)
        engine = create_engine(parsed, poolclass=NullPool, connect_args={"timeout": BUSY_SECONDS})
    except ArgumentError as error:
        raise StateError(f"STATE_URL is not understood: {_first_line(error)}") from None
    except ImportError as error:
        raise StateError(f"the driver that STATE_URL names is not installed: {error}") from None
    except OSError as error:
        raise StateError(f"the folder of the state database cannot be made: {error}") from None
    event.listen(engine, "connect", _leave_transactions_to_us)
    event.listen(engine, "begin", _begin_immediately)
    return engine


def _leave_transactions_to_us(connection: Any, _record: Any) -> None:
    # Python's driver begins a transaction before the first INSERT only: reads and DDL would stand outside of it.
    connection.isolation_level = None


def _begin_immediately(connection: Connection) -> None:
    # A transaction that reads first and writes later cannot wait for another one's end; one that writes from the
    # start can.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


@contextmanager
def transaction(engine: Engine) -> Iterator[Connection]:
    """One short transaction, committed at the end of the block.

    Raises
    ------
    StateError
        If the database does not answer or refuses; nothing of the block has happened then.
    """
    try:
        with engine.begin() as connection:
            yield connection
    except SQLAlchemyError as error:
        where = engine.url.set(query={}).render_as_string(hide_password=True)  # a query may hold a password too
        raise StateError(f"the state database {where} does not answer as it should: {_first_line(error)}") from error


def upgrade(engine: Engine) -> None:
    """Bring the tables up to date; several processes may do it at once, and one finds it done.

    Raises
    ------
    StateError
        If the database does not answer, or was made by a newer version of the platform.
    """
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
    with transaction(engine) as connection:
        if engine.dialect.name == "postgresql":  # SQLite's transaction is alone already
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_UPGRADE_LOCK})")
        config.attributes["connection"] = connection
        try:
            command.upgrade(config, "head")
        except CommandError as error:
            known = ScriptDirectory.from_config(config).get_current_head()
            raise StateError(
                f"the state database is newer than this version of the platform, which knows revision {known}:"
                f" {_first_line(error)}; upgrade shadow-mlops"
            ) from error


def _first_line(error: Exception) -> str:
    cause = getattr(error, "orig", None) or error  # the driver's own words, without statement and parameters
    return str(cause).strip().partition("\n")[0]
