"""What a model that runs elsewhere answers with, turned into scores: one place for all that may go wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, cast, get_args

import numpy as np
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError
from shadow_mlops.domain.models import ModelCard

OUTPUTS = "outputs"
"""Key in a card's provenance: what the answers are, where that has been declared."""
OUTPUTS_TAG = "shadow.outputs"
Outputs: TypeAlias = Literal["probabilities", "labels"]
_SLACK = 1e-6  # float32 sums of a softmax


class OutputsError(ValueError):
    """An answer that cannot be turned into scores; the message says why."""


def declared_outputs(tags: Mapping[str, str], metadata: Mapping[str, Any]) -> Outputs | None:
    """What the version's tag ``shadow.outputs``, or the model's metadata ``outputs``, says the answers are.

    Raises
    ------
    ModelRefusedError
        If it says neither of the two.
    """
    text = tags.get(OUTPUTS_TAG) or metadata.get(OUTPUTS)
    if text is None:
        return None
    if text not in get_args(Outputs):
        raise ModelRefusedError(f"its {OUTPUTS_TAG} {text!r} is none of {', '.join(get_args(Outputs))}")
    return cast("Outputs", text)


def scores_of(answer: Any, count: int, card: ModelCard) -> NDArray[np.float64]:
    """Scores (n, k) from an answer to n rows.

    Parameters
    ----------
    answer
        Array, list, or list of dictionaries by class: probabilities (n, k), the positive (second) class's alone (n,) or
        (n, 1), values (n,) of a regression, or labels (n,) where the card declares so.

    Returns
    -------
    ndarray
        float64 (n, len(card.outputs)). A row with a null or NaN in it is NaN as a whole.

    Raises
    ------
    OutputsError
        If the shape is another one, or a probability is outside of 0 to 1.

    Examples
    --------
    >>> from shadow_mlops.domain.features import Signature
    >>> card = ModelCard(name="m", version="1", registry_version="1", task="binary", runtime="http", file="",
    ...                  sha256="", signature=Signature(()), classes=("0", "1"))
    >>> scores_of([0.25, 0.5], 2, card).tolist()
    [[0.75, 0.25], [0.5, 0.5]]
    """
    if isinstance(answer, list) and answer and all(isinstance(row, dict) for row in answer):
        answer = [_by_class(row, card) for row in answer]
    if card.classes and card.provenance.get(OUTPUTS) == "labels":
        return _of_labels(answer, count, card)
    try:
        scores = np.asarray(answer, dtype=np.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise OutputsError(
            f"answers with what are no numbers in rows of one length ({error}); if they are labels, set the version's"
            f" tag {OUTPUTS_TAG} to 'labels'"
        ) from error
    width = len(card.outputs)
    if scores.shape == (count,):
        scores = scores.reshape(count, 1)
    if scores.shape == (count, 1) and width == 2:
        scores = np.hstack((1.0 - scores, scores))
    if scores.shape != (count, width):
        raise OutputsError(f"answers with an array of shape {scores.shape} for {count} rows and {width} outputs")
    scores = np.where(np.isfinite(scores).all(axis=1, keepdims=True), scores, np.nan)
    if card.classes and np.any((scores < -_SLACK) | (scores > 1 + _SLACK)):
        raise OutputsError("answers with probabilities outside of 0 to 1")
    return scores


def in_order(values: Any, columns: Sequence[str] | None, card: ModelCard) -> Any:
    """The values of a DataFrame with its columns in the order of the card's outputs.

    Raises
    ------
    OutputsError
        If it has several columns, and they are not named after the outputs.
    """
    if columns is None or len(columns) == 1 or tuple(columns) == card.outputs:
        return values
    if not set(columns) >= set(card.outputs):
        raise OutputsError(f"answers with the columns {', '.join(columns)}, not {', '.join(card.outputs)}")
    return np.asarray(values)[:, [columns.index(name) for name in card.outputs]]


def refuse_labels(scores: NDArray[np.float64], card: ModelCard) -> None:
    """Refuse a classifier that seems to answer with labels and has not declared what it answers with.

    Parameters
    ----------
    scores
        What it answered to the rows that it was tried on, as :func:`scores_of` gives it.

    Raises
    ------
    ModelRefusedError
        If no score is other than 0 or 1.
    """
    certain = scores[np.isfinite(scores)]
    if card.classes and OUTPUTS not in card.provenance and certain.size and np.isin(certain, (0.0, 1.0)).all():
        raise ModelRefusedError(
            "it answers with labels, not probabilities: log a model whose predict gives probabilities (of"
            f" mlflow.sklearn: pyfunc_predict_fn='predict_proba'), or set the version's tag {OUTPUTS_TAG} to 'labels'"
            " to serve labels as certain scores, or to 'probabilities' if these are some"
        )


def _by_class(row: dict[Any, Any], card: ModelCard) -> list[Any]:
    named = {str(key): value for key, value in row.items()}
    if set(named) >= set(card.outputs):
        return [named[name] for name in card.outputs]
    if len(named) == 1:
        return list(named.values())
    raise OutputsError(f"answers with columns {', '.join(named)}, not {', '.join(card.outputs)}")


def _of_labels(answer: Any, count: int, card: ModelCard) -> NDArray[np.float64]:
    labels = np.asarray(answer, dtype=object).ravel().tolist()
    if len(labels) != count:
        raise OutputsError(f"answers with {len(labels)} labels for {count} rows")
    places = {name: i for i, name in enumerate(card.classes)}
    scores = np.zeros((count, len(card.classes)))
    for i, label in enumerate(labels):
        place = places.get(_name(label))
        if place is None:
            raise OutputsError(f"answers with the label {label!r}, which is none of {', '.join(card.classes)}")
        scores[i, place] = 1.0
    return scores


def _name(label: Any) -> str:
    if isinstance(label, bool | np.bool_):
        return str(int(label))
    if isinstance(label, float) and label.is_integer():
        return str(int(label))
    return str(label)
