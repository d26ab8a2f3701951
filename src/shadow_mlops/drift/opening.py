"""From what a person names, a file or a table, to a source."""

from __future__ import annotations

from shadow_mlops.drift.sources import Source


def open_source(where: str) -> Source:
    """Rows by name.

    Parameters
    ----------
    where
        A CSV or Parquet file, a glob of them, or the URL of an SQL table: ``postgresql://USER@HOST/DATABASE#TABLE``.

    Raises
    ------
    DriftError
        If there is nothing of that name, or it cannot be read.
    """
    if "://" in where:
        from shadow_mlops.drift.sql import table_source  # noqa: PLC0415 - Ibis takes a second to import

        return table_source(where)
    from shadow_mlops.drift.files import file_source  # noqa: PLC0415 - so does DuckDB, nearly

    return file_source(where)
