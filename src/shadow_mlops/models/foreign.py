"""Versions that another tool registered: what MLflow's own files say of them, turned into a prepared directory."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias, cast, get_args

import msgspec
import numpy as np
import yaml
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.features import Feature, Kind, Signature
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.prepared import write_prepared
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import load_runtime

RecentRows: TypeAlias = Callable[[Signature], tuple[NDArray[np.float64], NDArray[np.object_]] | None]
"""The last recorded rows of a signature's features; None when there are none."""

FLAVORS = ("onnx", "sklearn", "lightgbm", "xgboost")
"""Those that are served without trust in whoever registered them, best first."""
PYFUNC = "python_function"
_KINDS: Mapping[str, Kind] = {
    "boolean": "boolean",
    "integer": "integer",
    "long": "integer",
    "float": "number",
    "double": "number",
    "string": "string",
    "bool": "boolean",
    "object": "string",
    "str": "string",
}


@dataclass(frozen=True, slots=True)
class Artefacts:
    """The downloaded artefacts of a version in MLflow's format."""

    folder: Path
    described: Mapping[str, Any]
    """Contents of the file ``MLmodel``."""

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What whoever logged the model added by hand: ``task`` and ``classes`` are understood."""
        return self.described.get("metadata") or {}

    def flavor(self, *, pyfunc: bool, allow_pickle: bool) -> tuple[str, Mapping[str, Any]]:
        """The flavour to serve, and its entry.

        Parameters
        ----------
        pyfunc
            Whether the version asks to be served as a pyfunc whatever else it is.
        allow_pickle
            Whether files whose loading runs code may be loaded: a pyfunc is one.

        Raises
        ------
        ModelRefusedError
            If it has none that may be served.
        """
        flavors = self.described.get("flavors") or {}
        for name in () if pyfunc else FLAVORS:
            if name in flavors:
                return name, flavors[name]
        has = ", ".join(sorted(set(flavors) - {PYFUNC})) or f"{PYFUNC} only"
        if PYFUNC not in flavors:
            raise ModelRefusedError(f"its MLflow flavour cannot be served ({has}); these can: {', '.join(FLAVORS)}")
        if not allow_pickle:
            raise ModelRefusedError(
                f"its MLflow flavour ({has}) is served as a pyfunc, and loading one runs code from its artefacts: set"
                " ALLOW_PICKLE=true if you trust whoever registers models; these can be served without:"
                f" {', '.join(FLAVORS)}"
            )
        return PYFUNC, flavors[PYFUNC]

    def file(self, relative: object) -> Path:
        """A file of the artefacts; nothing outside of their folder.

        Raises
        ------
        ModelRefusedError
            If it is not there.
        """
        path = (self.folder / str(relative)).resolve()
        if not path.is_relative_to(self.folder.resolve()) or not path.exists():
            raise ModelRefusedError(f"its artefacts have no {relative}")
        return path


def read_artefacts(folder: Path) -> Artefacts:
    """Read the file ``MLmodel`` of a downloaded version.

    Raises
    ------
    ModelRefusedError
        If there is none, or it is not YAML.
    """
    try:
        described = yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelRefusedError(f"its artefacts are no MLflow model: {error}") from error
    if not isinstance(described, dict):
        raise ModelRefusedError("its file MLmodel holds no mapping")
    return Artefacts(folder, described)


def input_example(artefacts: Artefacts, signature: Signature | None = None) -> tuple[list[str], list[list[Any]]] | None:
    """Column names and rows of the logged input example; None when there is none.

    Raises
    ------
    ModelRefusedError
        If it is of a kind that is not understood (nested, an array of more than two dimensions).
    """
    info = artefacts.described.get("saved_input_example_info")
    if not info:
        return None
    content = json.loads(artefacts.file(info["artifact_path"]).read_text(encoding="utf-8"))
    if info.get("type") == "dataframe":
        return [str(c) for c in content["columns"]], content["data"]
    if isinstance(content, dict) and len(content.get("inputs", content)) == 1:
        content = next(iter(content.values()))
    rows = np.asarray(content, dtype=object)
    if rows.ndim != 2:
        raise ModelRefusedError(f"its input example is no table: {info.get('type')}")
    names = list(signature.names) if signature else [f"x{i}" for i in range(rows.shape[1])]
    return names, rows.tolist()


def read_signature(artefacts: Artefacts) -> Signature:
    """The features of the model: from MLflow's signature, else from its input example.

    Raises
    ------
    ModelRefusedError
        If it has neither, or a type that cannot be served (dates, arrays, nested objects).
    """
    logged = artefacts.described.get("signature") or {}
    if logged.get("inputs"):
        return Signature(tuple(_features(json.loads(logged["inputs"]))))
    example = input_example(artefacts)
    if example is None:
        raise ModelRefusedError("it has neither a signature nor an input example: log it with input_example=")
    names, rows = example
    return Signature(tuple(Feature(name, _kind_of([row[i] for row in rows])) for i, name in enumerate(names)))


def _features(columns: list[dict[str, Any]]) -> list[Feature]:
    if len(columns) == 1 and columns[0].get("type") == "tensor":
        spec = columns[0]["tensor-spec"]
        width = spec["shape"][-1] if len(spec["shape"]) == 2 else 0
        if width < 1:
            raise ModelRefusedError(f"its signature is a tensor of shape {spec['shape']}, not a table")
        kind = _kind(spec["dtype"], "tensor")
        single = columns[0].get("name")
        return [Feature(single, kind)] if width == 1 and single else [Feature(f"x{i}", kind) for i in range(width)]
    found = []
    for i, column in enumerate(columns):
        named = column.get("name") or f"x{i}"
        type_ = column["tensor-spec"]["dtype"] if column.get("type") == "tensor" else column.get("type")
        found.append(Feature(named, _kind(type_, named)))
    return found


def _kind(type_: Any, name: str) -> Kind:
    text = str(type_)
    known = _KINDS.get(text) or _KINDS.get(text.rstrip("0123456789").removeprefix("u").replace("int", "integer"))
    if known is None:
        raise ModelRefusedError(f"feature {name!r} of its signature is of type {text}, which cannot be served")
    return known


def _kind_of(values: list[Any]) -> Kind:
    given = [value for value in values if value is not None]
    if any(isinstance(value, str) for value in given):
        return "string"
    if given and all(isinstance(value, bool) for value in given):
        return "boolean"
    return "number"


def rows_of(artefacts: Artefacts, signature: Signature, recent_rows: RecentRows) -> tuple[Rows, str]:
    """Rows to prepare with, and where they are from: recorded traffic, else the input example.

    Raises
    ------
    ModelRefusedError
        If there are none.
    """
    recent = recent_rows(signature)
    if recent is not None and len(recent[0]):
        return Rows(*recent), "recorded traffic"
    example = input_example(artefacts, signature)
    if example is None or not example[1]:
        raise ModelRefusedError(
            "there is neither traffic nor an input example to check it on: log it with input_example="
        )
    names, table = example
    absent = set(signature.names) - set(names)
    if absent:
        raise ModelRefusedError(f"its input example lacks {', '.join(sorted(absent))}")
    numbers = np.empty((len(table), len(signature.numbers)))
    strings = np.empty((len(table), len(signature.strings)), dtype=object)
    for r, row in enumerate(table):
        given = dict(zip(names, row, strict=True))
        numbers[r] = [np.nan if given[n] is None else float(given[n]) for n in signature.numbers]
        strings[r] = [None if given[n] is None else str(given[n]) for n in signature.strings]
    return Rows(numbers, strings), "input example"


def stated_task(artefacts: Artefacts, tags: Mapping[str, str]) -> Task | None:
    """The task, where the version's tag ``task`` or the model's metadata says it."""
    text = tags.get("task") or artefacts.metadata.get("task")
    if text is None:
        return None
    if text not in get_args(Task):
        raise ModelRefusedError(f"its task {text!r} is none of {', '.join(get_args(Task))}")
    return cast("Task", text)


def prepare_onnx(
    directory: Path, artefacts: Artefacts, entry: Mapping[str, Any], card: ModelCard, rows: Rows
) -> ModelCard:
    """Prepare a version of MLflow's onnx flavour: its graph as it is.

    Raises
    ------
    ModelRefusedError
        If onnxruntime cannot run it on the rows, or its outputs do not say what they are.
    """
    directory.mkdir(parents=True, exist_ok=True)
    source = artefacts.file(entry.get("data", "model.onnx"))
    graph = source / "model.onnx" if source.is_dir() else source
    shutil.copyfile(graph, directory / "model.onnx")
    classes = tuple(str(c) for c in artefacts.metadata.get("classes", ()))
    card = msgspec.structs.replace(card, runtime="onnx", file="model.onnx", classes=classes)
    if not classes and card.task != "regression":
        classes = _graph_classes(directory / "model.onnx", stated=card.task if card.provenance.get("task") else None)
        task: Task = "regression" if not classes else "binary" if len(classes) == 2 else "multiclass"
        card = msgspec.structs.replace(card, task=task, classes=classes)
    runtime = load_runtime(directory, card)
    try:
        scores = runtime.predict(rows.numbers, rows.strings)
    except PredictionError as error:
        raise ModelRefusedError(f"its graph fails on the rows it was tried on: {error}") from error
    if not np.isfinite(scores).any():
        raise ModelRefusedError("its graph gives no finite score on the rows it was tried on")
    return write_prepared(directory, card, runtime, rows)


def _graph_classes(path: Path, *, stated: Task | None) -> tuple[str, ...]:
    """Class labels of a classifier's graph; empty for a regression."""
    try:
        import onnx  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise ModelRefusedError("reading a graph's classes needs onnx: pip install 'shadow-mlops[train]'") from error
    for node in onnx.load(path, load_external_data=False).graph.node:
        for attribute in node.attribute:
            if attribute.name in {"classlabels_strings", "classlabels_int64s", "classlabels_ints"}:
                values = onnx.helper.get_attribute_value(attribute)
                if len(values):
                    return tuple(v.decode() if isinstance(v, bytes) else str(v) for v in values)
    if stated is not None:
        raise ModelRefusedError("its graph names no classes: log it with metadata={'classes': [...]}")
    return ()
