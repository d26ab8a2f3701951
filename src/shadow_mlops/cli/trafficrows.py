"""The rows that ``shadow traffic`` sends: of a file, or drawn by the example's generator."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from shadow_mlops.domain.errors import SettingsError, UnavailableError
from shadow_mlops.example import generate

Label: TypeAlias = int | float | str | bool
_EXAMPLE_CHUNK = 2000  # drawing them takes some 5 ms: one pause in 2,000 requests
_DOCUMENT_SECONDS = 10.0
_FILE_CHUNK = 32  # turning them into Python objects takes under 1 ms
_AS_THEY_ARE = (pa.types.is_floating, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
_BLANK_NUMBERS = frozenset({"", "na", "n/a", "nan", "null", "none", "-", "?"})  # as training has them


class Row(NamedTuple):
    """One request body, and the label to report for it; None where there is none."""

    body: bytes
    label: Label | None


def example_rows(*, seed: int, drift_at: int | None = None, drift: float = 1.0) -> Iterator[Row]:
    """Customers of the bundled generator without end.

    Parameters
    ----------
    seed
        The same seed gives the same customers.
    drift_at
        Rows after which the customers come from the drifted generator; None: never.
    drift
        Size of the drift, as :func:`shadow_mlops.example.generate` takes it.
    """
    encode = msgspec.json.Encoder().encode
    done = 0
    while True:
        before = drift_at is None or done < drift_at
        size = _EXAMPLE_CHUNK if drift_at is None or not before else min(_EXAMPLE_CHUNK, drift_at - done)
        drawn = generate(size, seed=seed + done, drift=0.0 if before else drift, first_id=done + 1)
        for request, churned in zip(drawn.requests(), drawn.churned.tolist(), strict=True):
            yield Row(encode(request), churned)
        done += size


def read_table(path: Path, texts: Collection[str] = ()) -> pa.Table:
    """A CSV or Parquet file as columns whose values are what requests carry.

    A column of words that are all numbers or blank becomes numbers with missing values, as in training; blank
    cells of other columns are missing too.

    Parameters
    ----------
    path
        ``.parquet`` and ``.pq`` are Parquet, all else CSV (``.tsv``: separated by tabs) with a header.
    texts
        Columns that stay text though all their values look like numbers.

    Raises
    ------
    SettingsError
        If the file is absent or is neither.
    """
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            table = pq.read_table(path)
        else:
            # One block: kinds come from the first only, and a "Yes" among numbers in a later one is an error.
            table = pa.csv.read_csv(
                path,
                read_options=pa.csv.ReadOptions(block_size=min(max(path.stat().st_size, 1), 2**31 - 1)),
                parse_options=pa.csv.ParseOptions(
                    delimiter="\t" if path.suffix.lower() == ".tsv" else ",", newlines_in_values=True
                ),
                convert_options=pa.csv.ConvertOptions(
                    strings_can_be_null=False, column_types=dict.fromkeys(texts, pa.string())
                ),
            )
    except (OSError, pa.ArrowException) as error:
        raise SettingsError(f"{path} cannot be read as CSV or Parquet: {error}") from None
    return pa.table({name: _plain(table.column(name), text=name in texts) for name in table.column_names})


def _plain(column: pa.ChunkedArray, *, text: bool) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain(column.cast(kind.value_type), text=text)
    if not text and any(is_kind(kind) for is_kind in _AS_THEY_ARE):
        return column
    if not text and pa.types.is_decimal(kind):
        return column.cast(pa.float64())
    words = column.cast(pa.string()).to_pylist()
    numbers = None if text else _numbers(words)
    if numbers is not None:
        return pa.chunked_array([pa.array(numbers, pa.float64())])
    return pa.chunked_array([pa.array([w if w and w.strip() else None for w in words], pa.string())])


def _numbers(words: Sequence[str | None]) -> list[float | None] | None:
    numbers: list[float | None] = []
    for word in words:
        if word is None or word.strip().lower() in _BLANK_NUMBERS:
            numbers.append(None)
            continue
        try:
            numbers.append(float(word))
        except ValueError:
            return None
    return numbers


def file_rows(
    table: pa.Table, *, target: str, entity: str | None = None, accepted: Collection[str] | None = None
) -> Iterator[Row]:
    """The rows of a table, once.

    Parameters
    ----------
    table
        What :func:`read_table` gave.
    target
        Column of the label; it is not sent with the request.
    entity
        Column of the entity; it is sent as text.
    accepted
        Columns that the deployment takes, others are left out; None: all.

    Raises
    ------
    SettingsError
        If a column is not in the table.
    """
    for name in (target, entity):
        if name is not None and name not in table.column_names:
            raise SettingsError(f"no column {name!r}; the file has {', '.join(table.column_names)}")
    sent = [name for name in table.column_names if accepted is None or name in {*accepted, entity, target}]
    return _file_rows(table.select(sent), target, entity)


def _file_rows(table: pa.Table, target: str, entity: str | None) -> Iterator[Row]:
    encode = msgspec.json.Encoder().encode
    for start in range(0, table.num_rows, _FILE_CHUNK):
        columns = {name: _values(table.column(name).slice(start, _FILE_CHUNK)) for name in table.column_names}
        labels = columns.pop(target)
        if entity is not None:
            columns[entity] = [None if value is None else str(value) for value in columns[entity]]
        for label, *values in zip(labels, *columns.values(), strict=True):
            yield Row(encode(dict(zip(columns, values, strict=True))), label)


def _values(column: pa.ChunkedArray) -> Sequence[Label | None]:
    # NaN has no place in JSON: it is a missing value, as a blank is.
    return [None if isinstance(v, float) and not math.isfinite(v) else v for v in column.to_pylist()]


def accepted_fields(url: str) -> dict[str, frozenset[str]] | None:
    """Fields that the server's OpenAPI document gives for ``/predict``, each with its JSON types.

    Returns
    -------
    dict or None
        None when the server has no such document, or accepts any field.

    Raises
    ------
    UnavailableError
        If nothing listens there.
    """
    try:
        with urlopen(f"{url.rstrip('/')}/openapi.json", timeout=_DOCUMENT_SECONDS) as answer:  # noqa: S310 - the user's URL
            document = json.load(answer)
    except (HTTPError, ValueError):
        return None
    except OSError as error:
        raise UnavailableError(f"{url} does not answer: {getattr(error, 'reason', error)}") from None
    schema = document.get("components", {}).get("schemas", {}).get("Features", {})
    if schema.get("additionalProperties", True) is not False:
        return None
    return {
        name: frozenset(part.get("type", "") for part in (field, *field.get("anyOf", ())))
        for name, field in schema.get("properties", {}).items()
    }
