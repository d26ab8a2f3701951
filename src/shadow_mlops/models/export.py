"""Export to ONNX, kept only where its answers are those of the original.

What is promised is about what a client gets: the scores of the served file, for the values as they arrive,
differ from those of the estimator by no more than the tolerance. Nothing is rounded before the comparison, so a
tree that compares float64 values is exported with float64 thresholds (see :mod:`~shadow_mlops.models.trees`);
scikit-learn's own trees and forests round to float32 themselves, and linear models lose 1e-7 to it. Whatever else
differs shows on the reference rows, or on variants of them with missing and unseen values, and then the original
serves.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import msgspec
import numpy as np
import structlog
from numpy.typing import NDArray

from shadow_mlops.domain.errors import ModelRefusedError, PredictionError
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.conversion import ConversionError, to_onnx
from shadow_mlops.models.prepared import difference, write_prepared
from shadow_mlops.models.rows import Rows, unusual_rows
from shadow_mlops.models.runtimes import Runtime, load_runtime
from shadow_mlops.models.runtimes.onnx import BLOCKS
from shadow_mlops.models.runtimes.skops import EstimatorRuntime, trusted_types

log = structlog.get_logger()

Predict: TypeAlias = Callable[[NDArray[np.float64], NDArray[np.object_]], NDArray[np.float64]]

TOLERANCE = 1e-5


def export(directory: Path, *, estimator: Any, rows: Rows, card: ModelCard, tolerance: float = TOLERANCE) -> ModelCard:
    """Prepare a fitted estimator: its ONNX graph where that agrees, else the estimator itself.

    Parameters
    ----------
    directory
        Prepared directory to make.
    estimator
        Fitted scikit-learn, LightGBM or XGBoost estimator.
    rows
        Rows on which both must agree, together with variants of some of them: each column missing, strings unseen.
    card
        What is known already; ``runtime``, ``file``, ``sha256`` and the figures of the comparison are filled in.
    tolerance
        Largest difference of scores; of values above 1, relative.

    Returns
    -------
    ModelCard
        As written to the directory.

    Raises
    ------
    ModelRefusedError
        If neither can be served.
    """
    original = EstimatorRuntime(estimator, card)
    kept = keep_export(
        directory,
        original=original.predict,
        convert=lambda: to_onnx(estimator, card.signature, card.task),
        rows=rows,
        card=card,
        tolerance=tolerance,
    )
    return kept if isinstance(kept, ModelCard) else _keep_original(directory, estimator, rows, card, kept)


def keep_export(
    directory: Path,
    *,
    original: Predict,
    convert: Callable[[], bytes],
    rows: Rows,
    card: ModelCard,
    tolerance: float = TOLERANCE,
) -> ModelCard | str:
    """Prepare the ONNX export of a model if it answers as the model does.

    Parameters
    ----------
    convert
        Makes the graph; may raise ``ConversionError``.

    Returns
    -------
    ModelCard or str
        As written to the directory; or why the export is not kept, and then nothing is written.

    Raises
    ------
    ModelRefusedError
        If there are no rows, or the original itself fails on them.
    """
    if not len(rows):
        raise ModelRefusedError("there are no rows on which the export could be compared with the original")
    try:
        expected = original(rows.numbers, rows.strings)
    except PredictionError as error:
        raise ModelRefusedError(f"it fails on the rows it was tried on: {error}") from error
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "model.onnx"
    notes = {**card.provenance, BLOCKS: "yes"}
    candidate = msgspec.structs.replace(card, runtime="onnx", file=path.name, provenance=notes)
    try:
        path.write_bytes(convert())
        runtime = load_runtime(directory, candidate)
        found = agreement(original, expected, runtime.predict, rows, tolerance)
    except (ConversionError, ModelRefusedError, PredictionError, DisagreementError) as error:
        log.warning("the ONNX export is not kept", model=card.name, version=card.version, reason=str(error))
        path.unlink(missing_ok=True)
        return str(error)
    return write_prepared(directory, msgspec.structs.replace(candidate, provenance={**notes, **found}), runtime, rows)


class DisagreementError(Exception):
    """The export answers otherwise than the original."""


def agreement(
    original: Predict, expected: NDArray[np.float64], served: Predict, rows: Rows, tolerance: float
) -> dict[str, str]:
    """Compare two models on rows and on unusual variants of some of them.

    Parameters
    ----------
    expected
        What the original answers to the rows.

    Returns
    -------
    dict
        For ``ModelCard.provenance``: ``tolerance``, ``largest_difference``, ``compared_rows``, and ``original_refuses``
        where the original raises on a variant (missing numbers, unseen strings).

    Raises
    ------
    DisagreementError
        If the largest difference is above the tolerance.
    PredictionError
        If the served one fails.
    """
    largest = difference(expected, served(rows.numbers, rows.strings))
    if largest > tolerance:
        raise DisagreementError(f"the largest difference is {largest:.3g} on {len(rows)} rows, above {tolerance:.3g}")
    refused = []
    for kind, variant in unusual_rows(rows).items():
        try:
            wanted = original(variant.numbers, variant.strings)
        except PredictionError:
            refused.append(kind)
            continue
        apart = difference(wanted, served(variant.numbers, variant.strings))
        if apart > tolerance:
            raise DisagreementError(f"the difference is {apart:.3g} on rows with a {kind}, above {tolerance:.3g}")
        largest = max(largest, apart)
    notes = {
        "tolerance": f"{tolerance:g}",
        "largest_difference": f"{largest:.3g}",
        "compared_rows": str(len(rows)),
    }
    return notes | ({"original_refuses": ", ".join(refused)} if refused else {})


def _keep_original(directory: Path, estimator: Any, rows: Rows, card: ModelCard, reason: str) -> ModelCard:
    notes = {**card.provenance, "onnx_refused": reason}
    booster = getattr(estimator, "booster_", None)
    if booster is not None:
        booster.save_model(directory / "model.lgb")
        card = msgspec.structs.replace(card, runtime="lightgbm", file="model.lgb", provenance=notes)
    elif hasattr(estimator, "get_booster"):
        from shadow_mlops.models.xgboosters import keep_estimator  # noqa: PLC0415 - xgboost is an extra

        card = keep_estimator(directory, estimator, msgspec.structs.replace(card, provenance=notes))
    else:
        dump_skops(estimator, directory / "model.skops")
        card = msgspec.structs.replace(card, runtime="skops", file="model.skops", provenance=notes)
    runtime: Runtime = load_runtime(directory, card)
    return write_prepared(directory, card, runtime, rows)


def dump_skops(estimator: Any, path: Path) -> list[str]:
    """Store an estimator as a skops file that our allow-list will accept.

    Returns
    -------
    list of str
        Types in it that skops does not trust by itself.

    Raises
    ------
    ModelRefusedError
        If skops cannot store it, or it holds types that are not on the allow-list.
    """
    import skops.io  # noqa: PLC0415 - needed at registration only

    try:
        skops.io.dump(estimator, path)
        found: list[str] = skops.io.get_untrusted_types(file=path)
    except Exception as error:  # skops fails in whatever way the estimator's state does
        raise ModelRefusedError(f"skops cannot store the estimator: {type(error).__name__}: {error}") from error
    return trusted_types(found)
