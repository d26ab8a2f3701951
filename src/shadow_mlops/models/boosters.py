"""LightGBM boosters from their own text files."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard, Task
from shadow_mlops.models.conversion import ConversionError
from shadow_mlops.models.export import keep_export
from shadow_mlops.models.prepared import write_prepared
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes import load_runtime

_FILE = "model.lgb"
_CLASSIFIERS = frozenset({"multiclass", "multiclassova", "softmax"})


def export_booster(directory: Path, path: Path, card: ModelCard, rows: Rows) -> ModelCard:
    """Prepare a booster: its ONNX graph where that agrees, else the text file itself.

    Raises
    ------
    ModelRefusedError
        If it cannot be loaded, or does not take the signature's features.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, directory / _FILE)
    task, count = _objective(path)
    classes = () if task == "regression" else tuple(str(i) for i in range(count))
    card = msgspec.structs.replace(card, runtime="lightgbm", file=_FILE, task=task, classes=classes)
    original = load_runtime(directory, card)
    kept = keep_export(
        directory,
        original=original.predict,
        convert=lambda: _to_onnx(path, card),
        rows=rows,
        card=card,
    )
    if isinstance(kept, ModelCard):
        (directory / _FILE).unlink()
        return kept
    provenance = {**card.provenance, "onnx_refused": kept}
    return write_prepared(directory, msgspec.structs.replace(card, provenance=provenance), original, rows)


def _objective(path: Path) -> tuple[Task, int]:
    """Task and number of classes, from the head of a booster's text file."""
    try:
        head = path.read_text(encoding="utf-8")[:65536]
    except (OSError, UnicodeDecodeError) as error:
        raise ModelRefusedError(f"the LightGBM file cannot be read: {error}") from error
    found = re.search(r"^objective=(\S+)", head, re.MULTILINE)
    classes = re.search(r"^num_class=(\d+)", head, re.MULTILINE)
    objective = found[1] if found else ""
    if objective in {"binary", "cross_entropy"}:
        return "binary", 2
    if objective in _CLASSIFIERS:
        return "multiclass", int(classes[1]) if classes else 0
    return "regression", 1


def _to_onnx(path: Path, card: ModelCard) -> bytes:
    try:
        import lightgbm  # noqa: PLC0415 - an extra
        import onnxmltools  # noqa: PLC0415
        from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

        from shadow_mlops.models.graphs import gather_blocks  # noqa: PLC0415
    except ImportError as error:
        raise ConversionError(f"{error.name} is absent: pip install 'shadow-mlops[train,lightgbm]'") from error
    try:
        inputs: Any = [("numbers", FloatTensorType([None, len(card.signature.names)]))]
        booster = lightgbm.Booster(model_file=str(path))
        model = onnxmltools.convert_lightgbm(booster, initial_types=inputs, zipmap=False, target_opset=15)
        graph = gather_blocks(model, card.signature, model.graph.output[-1].name, by_column=False, double=False)
    except Exception as error:  # the converter fails in whatever way the trees do
        raise ConversionError(f"{type(error).__name__}: {str(error).strip()[:300]}") from error
    return bytes(graph.SerializeToString())
