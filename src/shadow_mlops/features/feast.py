"""Feast: importing it takes seconds and 180 MB, so that only the feature process, training and reports do.

Feast's online reads give values of any age, with their event times: the TTL is enforced here. Its historical join
enforces the TTL itself, and gives rows in an order of its own: a column of row numbers brings them back.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import structlog

from shadow_mlops.domain.errors import FeatureStoreError, UnavailableError
from shadow_mlops.features.seam import Held, Value, Vectors

log = structlog.get_logger()

_ROW = "__row__"
_TIME = "event_timestamp"
_STAMP = "__ts"
_US = 1_000_000


class FeastFeatures:
    """The feature views of one Feast repository that have the given entity.

    Parameters
    ----------
    path
        Folder of ``feature_store.yaml``; applied already.
    entity
        The join key.
    clock
        Microseconds since 1970, UTC.

    Raises
    ------
    FeatureStoreError
        Feast is not installed, the folder is no repository, nothing was applied, or no view has the entity.
    """

    def __init__(self, path: Path, entity: str, *, clock: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._entity = entity
        self._clock = clock
        self._store = _open(path)
        self._ttl: dict[str, int | None] = {}
        self._references: dict[str, str] = {}
        for view in self._store.list_feature_views():
            if list(view.join_keys) != [entity]:
                continue
            if any(str(column.dtype) != "String" for column in view.entity_columns):
                raise FeatureStoreError(
                    f"{path}: the join key `{entity}` of {view.name} is not text, as the entities of requests are; "
                    "declare the Feast entity with value_type=ValueType.STRING, and apply"
                )
            for field in view.features:
                if field.name in self._references:
                    raise FeatureStoreError(
                        f"{path}: two feature views of `{entity}` have `{field.name}`; rename one, so that it is plain "
                        "which a model takes"
                    )
                self._references[field.name] = f"{view.name}:{field.name}"
                self._ttl[field.name] = _microseconds(view.ttl)
        if not self._references:
            raise FeatureStoreError(
                f"{path}: no feature view has the join key `{entity}`; run `feast apply` there (make feast-apply), or "
                "change `entity` in the deployment file"
            )

    @property
    def declared(self) -> frozenset[str]:
        """Features that the views have."""
        return frozenset(self._references)

    def online(self, names: Sequence[str], keys: Sequence[str]) -> Vectors:
        """The newest values, see :meth:`~shadow_mlops.features.seam.FeatureStore.online`."""
        known = [name for name in names if name in self._references]
        if not known or not keys:
            return _nothing(names, len(keys))
        try:
            answer = self._store.get_online_features(
                features=[self._references[name] for name in known],
                entity_rows=[{self._entity: key} for key in keys],
            ).to_dict(include_event_timestamps=True)
        except Exception as error:  # the store's client, whichever it is, raises what it likes
            raise UnavailableError(f"the online store does not answer: {_words(error)}") from error
        now = self._clock()
        columns = {name: self._judged(name, answer[name], answer[name + _STAMP], now) for name in known}
        return _rows(names, columns, len(keys))

    def history(self, names: Sequence[str], keys: Sequence[str], times: Sequence[int]) -> Vectors:
        """Values as of a time, see :meth:`~shadow_mlops.features.seam.FeatureStore.history`; without event times."""
        known = [name for name in names if name in self._references]
        if not known or not keys:
            return _nothing(names, len(keys))
        import pandas as pd  # noqa: PLC0415 - Feast takes nothing else

        wanted = pd.DataFrame(
            {
                self._entity: list(keys),
                _TIME: pd.to_datetime(list(times), unit="us", utc=True),
                _ROW: range(len(keys)),
            }
        )
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of ibis about DuckDB, on every call
                answer = self._store.get_historical_features(
                    entity_df=wanted, features=[self._references[name] for name in known]
                ).to_arrow()
        except Exception as error:
            raise UnavailableError(f"the offline store does not answer: {_words(error)}") from error
        places = answer[_ROW].to_pylist()
        if sorted(places) != list(range(len(keys))):
            raise UnavailableError(
                f"the offline store gave {len(places)} rows where {len(keys)} were asked for; use the DuckDB store: "
                "Feast's `file` and `dask` ones lose rows"
            )
        columns = {}
        for name in known:
            values: list[Value] = [None] * len(keys)
            for place, value in zip(places, answer[name].to_pylist(), strict=True):
                values[place] = value
            columns[name] = [(value, Held.ABSENT if value is None else Held.FRESH, 0) for value in values]
        return _rows(names, columns, len(keys))

    def _judged(
        self, name: str, values: Sequence[Value], stamps: Sequence[int], now: int
    ) -> list[tuple[Value, Held, int]]:
        ttl = self._ttl[name]
        cells: list[tuple[Value, Held, int]] = []
        for value, seconds in zip(values, stamps, strict=True):
            moment = seconds * _US
            if not seconds:
                cells.append((None, Held.ABSENT, 0))
            elif ttl is not None and now - moment > ttl:
                cells.append((None, Held.EXPIRED, moment))
            else:
                cells.append((value, Held.FRESH, moment))
        return cells


def _open(path: Path) -> Any:
    if not (path / "feature_store.yaml").is_file():
        raise FeatureStoreError(f"{path} has no feature_store.yaml; set `feature_store.path` in the deployment file")
    try:
        from feast import FeatureStore  # noqa: PLC0415
    except ImportError as error:
        raise FeatureStoreError(
            "the deployment has a feature store, and Feast is not installed: pip install 'shadow-mlops[feast]'"
        ) from error
    try:
        return FeatureStore(repo_path=str(path))
    except Exception as error:  # Feast checks its file with pydantic, and wraps that in errors of several kinds
        raise FeatureStoreError(f"{path / 'feature_store.yaml'} is refused by Feast: {_words(error)}") from error


def _microseconds(ttl: timedelta | None) -> int | None:
    """A TTL of zero is none, as in Feast."""
    return round(ttl.total_seconds() * _US) if ttl else None


def _nothing(names: Sequence[str], rows: int) -> Vectors:
    return _rows(names, {}, rows)


def _rows(names: Sequence[str], columns: dict[str, list[tuple[Value, Held, int]]], rows: int) -> Vectors:
    absent: list[tuple[Value, Held, int]] = [(None, Held.ABSENT, 0)] * rows
    cells = list(zip(*(columns.get(name, absent) for name in names), strict=True)) or [()] * rows
    return Vectors(
        tuple(names),
        [[value for value, _, _ in row] for row in cells],
        [bytes(held for _, held, _ in row) for row in cells],
        [[moment for _, _, moment in row] for row in cells],
    )


def _words(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
