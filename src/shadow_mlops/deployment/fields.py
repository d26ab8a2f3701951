"""Which fields a request may have, and how requests become columns.

The request type is generated: the entity, the union of the champion's and challengers' signatures, and the features
that the deployment declares. A field that a request leaves out decodes to a sentinel (a NaN with a payload that JSON
cannot express), so that one vectorised pass over a batch tells *absent* from *null* and fills the defaults.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from difflib import get_close_matches
from typing import Annotated, Any, NoReturn

import msgspec
import numpy as np
from numpy.typing import NDArray

from shadow_mlops.deployment.columns import LARGEST, MAX_TEXT, Columns, Stored, with_stored
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.errors import (
    DeploymentError,
    InvalidFieldsError,
    MalformedBodyError,
    Problem,
    RequestError,
)
from shadow_mlops.domain.events import Origin
from shadow_mlops.domain.features import Feature, Kind, Signature

_ABSENT_BITS = 0x7FF8000000000ABC
_ABSENT_NUMBER: float = struct.unpack("<d", struct.pack("<Q", _ABSENT_BITS))[0]
_ABSENT_TEXT = "\0absent"  # told from any client's text by identity, never by value
_MANY_DIGITS = 400  # more than any float64 has
_REQUIRED = "is required: the request has none and the deployment declares no default"

_Number = float | bool | None
_Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
_Entity = Annotated[str, msgspec.Meta(min_length=1, max_length=256)] | int | None


class AcceptedFields:
    """The generated request type of one deployment and one set of models.

    Parameters
    ----------
    deployment
        Entity, declared features with defaults, whether unknown fields are refused.
    signatures
        Champion first, then challengers; where two disagree on a feature's kind the first one decides.
    """

    def __init__(self, deployment: Deployment, signatures: Sequence[Signature]) -> None:
        features = _union(deployment, signatures)
        self.signature = Signature(tuple(features))
        self.entity = deployment.entity
        self._kinds = {f.name: f.kind for f in features}
        self._strict = deployment.unknown_fields == "reject"
        self._width, self._texts = len(self.signature.numbers), len(self.signature.strings)
        self._defaults = np.array([_number_default(deployment, n) for n in self.signature.numbers], dtype=np.float64)
        # What only a challenger takes is missing where a client does not know of it: a shadow must not touch an answer.
        shadows = {n for s in signatures[1:] for n in s.names} - {n for s in signatures[:1] for n in s.names}
        optional = {n for n in self.signature.names if n in shadows or _has_default(deployment, n)}
        # Where there is a store, the challenger reads them there itself, as of the event's time.
        later = shadows if deployment.feature_store is not None and deployment.entity is not None else set()
        self._later = np.array([n in later for n in self.signature.numbers], dtype=np.bool_)
        self._texts_later = [n in later for n in self.signature.strings]
        self._required = np.array([n not in optional for n in self.signature.numbers], dtype=np.bool_)
        self._text_defaults = [_text_default(deployment, n) for n in self.signature.strings]
        self._text_required = [n not in optional for n in self.signature.strings]
        self.columns_of_champion = frozenset(
            place
            for place, name in enumerate((*self.signature.numbers, *self.signature.strings))
            if any(name in signature.names for signature in signatures[:1])
        )
        """Places of what the champion takes."""
        kinds = [self._kinds[n] for n in self.signature.numbers]
        self._integers = np.array([k == "integer" for k in kinds], dtype=np.bool_)
        self._booleans = np.array([k == "boolean" for k in kinds], dtype=np.bool_)
        self._whole = np.flatnonzero(self._integers | self._booleans)
        self._some_boolean = bool(self._booleans.any())
        self.row_type = self._generate()
        self._decoder = msgspec.json.Decoder(self.row_type)

    def _generate(self) -> type[msgspec.Struct]:
        names = [*self.signature.numbers, *self.signature.strings]
        attributes: list[tuple[str, Any, Any]] = [(f"n{i}", _Number, _ABSENT_NUMBER) for i in range(self._width)]
        attributes += [(f"s{i}", _Text | None, _ABSENT_TEXT) for i in range(self._texts)]
        if self.entity is not None:
            attributes.append(("entity", _Entity, None))
            names.append(self.entity)
        return msgspec.defstruct(
            "Features",
            attributes,
            rename=dict(zip((a[0] for a in attributes), names, strict=True)),
            forbid_unknown_fields=self._strict,
            gc=False,
            weakref=False,
        )

    def decode(self, body: bytes) -> tuple[Any, ...]:
        """Values of one request, in the order of the generated type.

        Raises
        ------
        MalformedBodyError
            Not JSON.
        InvalidFieldsError
            Unknown fields or wrong types; every problem of the body is named.
        """
        try:
            return msgspec.structs.astuple(self._decoder.decode(body))
        except (
            ValueError,
            RecursionError,
        ) as error:  # msgspec's errors and UnicodeDecodeError are ValueErrors
            raise self.explain(body, error) from None

    def convert(self, instance: Any, index: int) -> tuple[Any, ...]:
        """Values of one already parsed instance of a batch.

        Raises
        ------
        InvalidFieldsError
            As :meth:`decode`; each problem carries the index.
        """
        try:
            return msgspec.structs.astuple(msgspec.convert(instance, self.row_type))
        except ValueError:
            raise InvalidFieldsError(f"instance {index} is wrong", self.problems_of(instance, index)) from None

    def convert_each(self, instances: Sequence[Any]) -> list[tuple[Any, ...]]:
        """Values of all parsed instances of a batch, as far as their types go; absent ones may be filled in.

        Raises
        ------
        InvalidFieldsError
            Every problem of every instance is told at once, with its index; also what :meth:`check_all` would say of
            the others.
        """
        problems: list[Problem] = []
        rows: dict[int, tuple[Any, ...]] = {}
        for index, instance in enumerate(instances):
            try:
                rows[index] = self.convert(instance, index)
            except InvalidFieldsError as error:
                problems.extend(error.problems)
        if problems:
            self._refuse(self.columns(list(rows.values())), list(rows), problems)
        return list(rows.values())

    def check_all(self, rows: Sequence[tuple[Any, ...]], stored: Sequence[Stored | None] | None = None) -> Columns:
        """Converted values of a batch as columns.

        Raises
        ------
        InvalidFieldsError
            Every problem of every instance, with its index.
        """
        columns = self.columns(rows, stored)
        if columns.problems:
            self._refuse(columns, range(len(rows)), [])
        return columns

    def _refuse(self, columns: Columns, indices: Sequence[int], problems: list[Problem]) -> NoReturn:
        for position, found in columns.problems.items():
            problems.extend(Problem(p.field, p.problem, indices[position]) for p in found)
        problems.sort(key=lambda p: p.index or 0)
        raise InvalidFieldsError("the batch has invalid instances; none was answered", problems)

    def entities_of(self, rows: Sequence[tuple[Any, ...]]) -> list[str | None]:
        """The entities of decoded values, as text."""
        if self.entity is None:
            return [None] * len(rows)
        return [e if e is None or type(e) is str else str(e) for e in [row[-1] for row in rows]]

    def absent(self, row: tuple[Any, ...]) -> list[int]:
        """Places, among numbers and then strings, that a request has no value for."""
        width, some = self._width, self._width + self._texts
        found = [place for place in range(width) if row[place] is _ABSENT_NUMBER]
        return found + [place for place in range(width, some) if row[place] is _ABSENT_TEXT]

    def kind_at(self, place: int) -> Kind:
        """Kind of the feature at a place among numbers and then strings."""
        return self._kinds[self.name_at(place)]

    def name_at(self, place: int) -> str:
        """Name of the feature at a place among numbers and then strings."""
        return self.signature.numbers[place] if place < self._width else self.signature.strings[place - self._width]

    def required_at(self, place: int) -> bool:
        """Whether a request without a value at that place, and no stored one, is refused."""
        if place < self._width:
            return bool(self._required[place])
        return self._text_required[place - self._width]

    def columns(self, rows: Sequence[tuple[Any, ...]], stored: Sequence[Stored | None] | None = None) -> Columns:
        """Decoded values of n requests as columns, absent ones filled with their defaults, all checked.

        Parameters
        ----------
        stored
            What a feature store did for each of the rows; None: nothing for any.
        """
        width = self._width
        numbers = np.array([row[:width] for row in rows], dtype=np.float64).reshape(len(rows), width)
        problems: dict[int, list[Problem]] = {}
        absent = None
        # False where a number is too large, and where it is NaN: absent or missing
        some_unknown = not (np.abs(numbers) <= LARGEST).all()
        if some_unknown:
            absent = numbers.view(np.uint64) == _ABSENT_BITS
            self._note(problems, absent & self._required, _REQUIRED)
            numbers = np.where(absent, self._defaults, numbers)
            self._note(problems, np.abs(numbers) > LARGEST, f"is too large: at most {LARGEST:.3g} in magnitude")
        if self._whole.size:
            whole = numbers[:, self._whole]
            if self._some_boolean or (np.floor(whole) != whole).any():
                self._check_whole(numbers, problems)
        strings, text_origins = self._strings(rows, problems)
        origins = self._origins(numbers, absent, text_origins) if some_unknown or text_origins is not None else None
        columns = Columns(numbers, strings, origins, problems)
        if stored is None or not any(stored):
            return columns
        return with_stored(
            columns, self._origins(numbers, absent, text_origins) if origins is None else origins, stored
        )

    def _check_whole(self, numbers: NDArray[np.float64], problems: dict[int, list[Problem]]) -> None:
        known = ~np.isnan(numbers)
        fraction = known & (np.floor(numbers) != numbers)
        self._note(problems, fraction & self._integers, "must be a whole number")
        other = known & (numbers != 0) & (numbers != 1)
        self._note(problems, other & self._booleans, "must be true, false, 0 or 1")

    def _strings(
        self, rows: Sequence[tuple[Any, ...]], problems: dict[int, list[Problem]]
    ) -> tuple[NDArray[np.object_], NDArray[np.uint8] | None]:
        strings = np.empty((len(rows), self._texts), dtype=np.object_)
        origins: NDArray[np.uint8] | None = None
        for column in range(self._texts):
            at = self._width + column
            values = [row[at] for row in rows]
            for index, value in enumerate(values):
                if value is not None and value is not _ABSENT_TEXT:
                    continue
                if origins is None:
                    origins = np.zeros(strings.shape, dtype=np.uint8)
                if value is _ABSENT_TEXT:
                    values[index] = self._text_defaults[column]
                    if self._text_required[column]:
                        problems.setdefault(index, []).append(Problem(self.signature.strings[column], _REQUIRED))
                origins[index, column] = Origin.MISSING if values[index] is None else Origin.DEFAULT
                if value is _ABSENT_TEXT and self._texts_later[column]:
                    origins[index, column] = Origin.ABSENT
            strings[:, column] = values
        return strings, origins

    def _origins(
        self, numbers: NDArray[np.float64], absent: NDArray[np.bool_] | None, texts: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        origins = np.zeros((len(numbers), self._width + self._texts), dtype=np.uint8)
        if absent is not None:
            origins[:, : self._width][absent] = Origin.DEFAULT
            origins[:, : self._width][np.isnan(numbers)] = Origin.MISSING
            origins[:, : self._width][absent & self._later] = Origin.ABSENT
        if texts is not None:
            origins[:, self._width :] = texts
        return origins

    def _note(self, problems: dict[int, list[Problem]], where: NDArray[np.bool_], text: str) -> None:
        if where.any():
            for row, column in np.argwhere(where).tolist():
                problems.setdefault(row, []).append(Problem(self.signature.numbers[column], text))

    def explain(self, body: bytes, error: Exception) -> RequestError:
        """Every problem of a body that did not decode; only reached when something is wrong."""
        try:
            instance = json.loads(body, parse_constant=_Constant, parse_int=_whole)
        except (ValueError, RecursionError):
            text = "nested too deep" if isinstance(error, RecursionError) else str(error)
            return MalformedBodyError(f"the body is not valid JSON: {text}")
        return InvalidFieldsError(
            "the request has invalid fields", self.problems_of(instance) or [Problem("", str(error))]
        )

    def problems_of(self, instance: Any, index: int | None = None) -> list[Problem]:
        """What is wrong with a parsed instance, field by field."""
        if not isinstance(instance, dict):
            return [Problem("", "must be a JSON object of fields", index)]
        found = []
        for name, value in instance.items():
            problem = self._problem(name, value)
            if problem is not None:
                found.append(Problem(str(name)[:200], problem, index))
        return found

    def _problem(self, name: str, value: Any) -> str | None:
        if name == self.entity:
            kind: Any = _Entity
        elif name in self._kinds:
            kind = _Text | None if self._kinds[name] == "string" else _Number
        else:
            return self._unknown(name) if self._strict else None
        if isinstance(value, _Constant):
            return f"{value.text} is not a number that can be served; send null for a missing value"
        if isinstance(value, float) and value in (float("inf"), float("-inf")):
            return "the number is out of range"
        if isinstance(value, str) and not value.isascii() and value != value.encode("utf-8", "replace").decode():
            return "the text is not valid Unicode (a lone surrogate)"
        try:
            msgspec.convert(value, kind)
        except (ValueError, OverflowError) as error:
            text = str(error)
            return f"{text[0].lower()}{text[1:]}"
        return None

    def _unknown(self, name: str) -> str:
        known = [*self._kinds, *([self.entity] if self.entity else [])]
        close = get_close_matches(name, known, n=1, cutoff=0.6)
        return f"unknown field; did you mean `{close[0]}`?" if close else "unknown field"


def _whole(digits: str) -> float:
    # Python refuses to parse very long integers, with an error that would not name the field
    return int(digits) if len(digits) < _MANY_DIGITS else float("inf")


class _Constant:
    """NaN, Infinity or -Infinity, which Python's parser would let through."""

    def __init__(self, text: str) -> None:
        self.text = text


def _union(deployment: Deployment, signatures: Sequence[Signature]) -> list[Feature]:
    features: dict[str, Feature] = {}
    for signature in signatures:
        for feature in signature.features:
            features.setdefault(feature.name, feature)
    for name, spec in deployment.features.items():
        if name not in features:
            features[name] = Feature(name, spec.kind or _kind_of(spec.default))
    if deployment.entity in features:
        raise DeploymentError(
            f"`{deployment.entity}` is the entity and a model's feature; give the entity another field"
        )
    return list(features.values())


def _kind_of(default: object) -> Kind:
    return "string" if isinstance(default, str) else "number"


def _has_default(deployment: Deployment, name: str) -> bool:
    spec = deployment.features.get(name)
    return spec is not None and spec.default is not msgspec.UNSET


def _number_default(deployment: Deployment, name: str) -> float:
    spec = deployment.features.get(name)
    if spec is None or spec.default is msgspec.UNSET or spec.default is None:
        return float("nan")
    if isinstance(spec.default, str):
        raise DeploymentError(f"`features.{name}.default` is text, but the model takes a number")
    return float(spec.default)


def _text_default(deployment: Deployment, name: str) -> str | None:
    spec = deployment.features.get(name)
    if spec is None or spec.default is msgspec.UNSET or spec.default is None:
        return None
    if not isinstance(spec.default, str):
        raise DeploymentError(f"`features.{name}.default` is a number, but the model takes text; quote it")
    return spec.default
