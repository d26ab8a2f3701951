"""From a URL to a table, a view or a query of PostgreSQL or DuckDB, which is only read.

Needs the extra ``sql``. No message and no name has the URL's password.
"""

from __future__ import annotations

import atexit
import importlib.util
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from shadow_mlops.domain.errors import DriftError

if TYPE_CHECKING:
    from shadow_mlops.drift.sqltable import TableSource  # whose Ibis is an extra

_FORMS = "postgresql://USER@HOST/DATABASE#TABLE or duckdb:///FILE#TABLE"
_SCHEMES = {"postgres": "postgresql", "postgresql": "postgresql", "duckdb": "duckdb"}
_MISQUOTED = (
    "the {} URL cannot be taken apart: quote what stands for something else in it, such as / ? # @ in a password "
    "(%2F %3F %23 %40)"
)
_CONNECT_SECONDS = 10
_MEMORY = "512MB"
_QUERY_VIEW = "shadow_drift_query"


def table_source(url: str, *, table: str | None = None, query: str | None = None) -> TableSource:
    """A table, view or query of a PostgreSQL server or a DuckDB file; it is only read.

    Parameters
    ----------
    url
        ``postgresql://USER:PASSWORD@HOST:PORT/DATABASE`` (quote what a URL reserves; a password may also be in
        ``PGPASSWORD`` or ``~/.pgpass``) or ``duckdb:///absolute/file.db``. What follows a ``#`` is the table, or a
        query if it begins with ``SELECT`` or ``WITH``. No message and no name that is shown has the password.
    table
        Instead of the ``#`` part: ``TABLE`` or ``SCHEMA.TABLE``.
    query
        Instead of the ``#`` part: SQL of rows.

    Raises
    ------
    DriftError
        If Ibis is not installed, the URL is wrong, the server does not answer or there is no such table.
    """
    parts = _parts(url)
    if table is None and query is None and parts.fragment:
        stated = unquote(parts.fragment).strip()
        is_query = stated.partition(" ")[0].lower() in {"select", "with"}
        table, query = (None, stated) if is_query else (stated, None)
    name = f"{_shown(parts)}#{table or 'query'}"
    if (table is None) == (query is None):
        raise DriftError(f"{_shown(parts)}: name one table or query: {_FORMS}")
    _check_installed()
    from shadow_mlops.drift.sqlcells import CELLS  # noqa: PLC0415 - an extra
    from shadow_mlops.drift.sqltable import TableSource  # noqa: PLC0415 - an extra

    with _asking(name, parts):
        connection = _connect(parts)
        found = _found(connection, table, query)
    source = TableSource(found, name, CELLS[connection.name], lambda: _asking(name, parts))
    weakref.finalize(source, connection.disconnect)
    return source


def _check_installed() -> None:
    if importlib.util.find_spec("ibis") is None or importlib.util.find_spec("psycopg") is None:
        raise DriftError("SQL tables are read through Ibis: pip install 'shadow-mlops[sql]'")


def _parts(url: str) -> SplitResult:
    scheme = _SCHEMES.get(url.partition(":")[0].lower())
    if scheme is None:
        raise DriftError(f"{url.partition(':')[0]}: is no kind of database that is read here; write {_FORMS}")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # whose message may be a part of the password
        raise DriftError(_MISQUOTED.format(scheme)) from None
    if scheme == "postgresql" and "@" not in parts.netloc and "@" in parts.path + parts.query + parts.fragment:
        raise DriftError(_MISQUOTED.format(scheme))
    return parts._replace(scheme=scheme)


def _secrets(parts: SplitResult) -> set[str]:
    """Passwords in a URL, as they are and as they are quoted."""
    stated = [parts.password or "", *(value for key, value in parse_qsl(parts.query) if "password" in key)]
    return {form for each in stated if each for form in (each, unquote(each), quote(each, safe=""))}


def _shown(parts: SplitResult) -> str:
    """The URL without password, options and table."""
    who, _, where = parts.netloc.rpartition("@")
    user = who.partition(":")[0]
    return f"{parts.scheme}://{user}{'@' if user else ''}{where}{parts.path}"


@contextmanager
def _asking(name: str, parts: SplitResult) -> Iterator[None]:
    """Turn the errors of Ibis and of its drivers into one line without the password."""
    import duckdb  # noqa: PLC0415 - with Ibis, so that who reads files only does not wait for it
    import psycopg  # noqa: PLC0415 - an extra
    from ibis.common.exceptions import IbisError, TableNotFound  # noqa: PLC0415 - an extra

    try:
        yield
    except TableNotFound:
        raise DriftError(f"{name}: there is no such table") from None
    except (IbisError, duckdb.Error, psycopg.Error, OSError) as error:
        said = " ".join(line.strip() for line in str(error).splitlines()[:2] if line.strip())
        for secret in _secrets(parts):
            said = said.replace(secret, "***")
        raise DriftError(f"{name}: {said}") from None  # the driver's own may have the whole URL


def _connect(parts: SplitResult) -> Any:
    import ibis  # noqa: PLC0415 - an extra

    if parts.scheme == "duckdb":
        path = Path(unquote(parts.netloc + parts.path))
        if not path.is_file():
            raise DriftError(f"{_shown(parts)}: there is no such file")
        connection = ibis.duckdb.connect(
            path,
            read_only=True,
            memory_limit=_MEMORY,
            temp_directory=_spill(),
            autoinstall_known_extensions=False,
            autoload_known_extensions=False,
            allow_unsigned_extensions=False,
        )
        connection.raw_sql("SET enable_progress_bar = false")  # on the standard output, which may be somebody's JSON
        return connection
    query = parts.query if "connect_timeout=" in parts.query else f"connect_timeout={_CONNECT_SECONDS}&{parts.query}"
    return ibis.connect(parts._replace(fragment="", query=query.strip("&")).geturl())


@cache
def _spill() -> str:
    """Where DuckDB may spill, instead of beside the warehouse: connections to one file need one place."""
    folder = tempfile.mkdtemp(prefix="shadow-drift-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _found(connection: Any, table: str | None, query: str | None) -> Any:
    """The table or query, and a connection that writes nothing from now on."""
    if query is not None:
        # Ibis 12 asks for the schema of a query in a way that DuckDB 2 and sqlglot 30 no longer know.
        connection.raw_sql(f'CREATE TEMPORARY VIEW "{_QUERY_VIEW}" AS {query.strip().rstrip(";")}')
        found = connection.table(_QUERY_VIEW)
    else:
        found = _table(connection, table or "")
    if connection.name == "postgres":
        connection.raw_sql("SET default_transaction_read_only = on")
    return found


def _table(connection: Any, table: str) -> Any:
    """A table by its name; if there is none, what is before the first dot is the schema."""
    from ibis.common.exceptions import TableNotFound  # noqa: PLC0415 - an extra

    try:
        return connection.table(table)
    except TableNotFound:
        schema, dot, name = table.partition(".")
        if not dot:
            raise
        return connection.table(name, database=schema)
