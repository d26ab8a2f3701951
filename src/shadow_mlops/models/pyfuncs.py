"""Preparation of MLflow pyfuncs: the artefacts as they are, and what their answers turned out to be."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.foreign import Artefacts
from shadow_mlops.models.outputs import OUTPUTS, OUTPUTS_TAG, OutputsError, in_order, refuse_labels, scores_of
from shadow_mlops.models.prepared import write_prepared
from shadow_mlops.models.rows import Rows
from shadow_mlops.models.runtimes.detached import CallError, RowsRefusedError
from shadow_mlops.models.runtimes.pyfunc import MANIFEST, MODEL_FOLDER, Answer, load, write_manifest

_SECONDS = 60.0
_TOLERANCE = 1e-5  # whatever it computes on: float32 sums differ with the size of a batch


def prepare_pyfunc(directory: Path, artefacts: Artefacts, card: ModelCard, rows: Rows) -> ModelCard:
    """Prepare a version of any flavour to be served by the child process of runtime ``pyfunc``.

    Parameters
    ----------
    card
        Its task is the one that was stated, where ``provenance`` has one; else what the answers look like.

    Raises
    ------
    ModelRefusedError
        If pyfuncs are not allowed here, it cannot be loaded, fails on the rows, or answers with what are no scores.
    """
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copytree(artefacts.folder, directory / MODEL_FOLDER)
    write_manifest(directory)
    card = msgspec.structs.replace(card, runtime="pyfunc", file=MANIFEST)
    classes = tuple(str(c) for c in artefacts.metadata.get("classes", ()))
    with closing(load(directory, card)) as runtime:
        try:
            answer = runtime.answer(rows.numbers, rows.strings, _SECONDS)
        except RowsRefusedError as error:
            raise ModelRefusedError(f"it fails on the rows it was tried on: {error}") from error
        except CallError as error:
            raise ModelRefusedError(f"its process {error} on the rows it was tried on") from error
        card = understood(card, answer, classes, len(rows))
        runtime.describe(card)
        return write_prepared(directory, card, runtime, rows, tolerance=_TOLERANCE)


def understood(card: ModelCard, answer: Answer, classes: tuple[str, ...], count: int) -> ModelCard:
    """The card with task and classes, from what was stated and from the answer to n rows.

    Parameters
    ----------
    classes
        As the model's metadata names them; empty if it does not.

    Raises
    ------
    ModelRefusedError
        If it cannot be known what the answer is, or it is no scores; the message says what to declare.
    """
    card = _described(card, answer, classes)
    try:
        scores = scores_of(in_order(answer.values, answer.columns, card), count, card)
    except OutputsError as error:
        raise ModelRefusedError(f"it {error}") from error
    if not np.isfinite(scores).any():
        raise ModelRefusedError("it gives no finite score on the rows it was tried on")
    refuse_labels(scores, card)
    return card


def _described(card: ModelCard, answer: Answer, classes: tuple[str, ...]) -> ModelCard:
    shape = np.asarray(answer.values, dtype=object).shape
    width = shape[1] if len(shape) == 2 else 1
    stated = card.provenance.get("task")
    if stated is None and not classes and width < 2:
        raise ModelRefusedError(
            "it answers with one value a row, which may be a probability, a label or a prediction: set the version's"
            f" tag task to binary or regression (and {OUTPUTS_TAG} to labels if these are labels)"
        )
    task = card.task
    if stated is None:
        count = len(classes) or width
        task = "binary" if count == 2 else "multiclass"
    if task == "regression":
        return msgspec.structs.replace(card, task=task, classes=())
    if not classes:
        if task == "multiclass" and width < 2:
            raise ModelRefusedError(
                "it answers with one value a row, and its classes are not known: log it with"
                f" metadata={{'classes': […]}}, and set the version's tag {OUTPUTS_TAG} to labels if these are labels"
            )
        named = tuple(answer.columns or ())
        classes = named if len(named) == width >= 2 else ("0", "1") if width < 2 else tuple(map(str, range(width)))
    if task == "binary" and len(classes) != 2:
        raise ModelRefusedError(f"its task is binary, and it answers with {width} columns: {', '.join(classes)}")
    if card.provenance.get(OUTPUTS) != "labels" and width not in {1, len(classes)}:
        raise ModelRefusedError(f"it answers with {width} columns, and has the classes {', '.join(classes)}")
    return msgspec.structs.replace(card, task=task, classes=classes)
