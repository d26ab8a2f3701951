"""MLflow's own model format: written for other tools, read when a version was registered by one."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

from shadow_mlops.domain.features import Signature
from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.export import dump_skops
from shadow_mlops.models.registry import quiet_mlflow
from shadow_mlops.models.rows import Rows, as_frame

_EXAMPLE_ROWS = 5


def save_mlflow_model(path: Path, *, estimator: Any, card: ModelCard, rows: Rows) -> None:
    """Write the estimator as an MLflow model with signature and input example: skops, or the boosters' own formats.

    Parameters
    ----------
    path
        Folder to make.

    Raises
    ------
    ModelRefusedError
        If skops cannot store the estimator with types that are on our allow-list.
    """
    quiet_mlflow()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mlflow.models import ModelSignature  # noqa: PLC0415 - two seconds
        from mlflow.types.schema import ColSpec, Schema  # noqa: PLC0415

        columns = [ColSpec("string" if f.kind == "string" else "double", f.name) for f in card.signature.features]
        outputs = Schema([ColSpec("double", name) for name in card.outputs])
        common: dict[str, Any] = {
            "path": str(path),
            "signature": ModelSignature(inputs=Schema(columns), outputs=outputs),
            "input_example": _example(card.signature, rows),
            "metadata": {"version": card.version, "task": card.task, "classes": list(card.classes)},
        }
        booster = getattr(estimator, "booster_", None)
        if booster is not None:
            import mlflow.lightgbm  # noqa: PLC0415

            mlflow.lightgbm.save_model(booster, pip_requirements=_requirements("lightgbm", "pandas"), **common)
            return
        if hasattr(estimator, "get_booster"):
            import mlflow.xgboost  # noqa: PLC0415

            mlflow.xgboost.save_model(estimator, pip_requirements=_requirements(*_xgboost_packages()), **common)
            return
        import mlflow.sklearn  # noqa: PLC0415

        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_suffix(".skops")
        trusted = dump_skops(estimator, probe)
        probe.unlink()
        mlflow.sklearn.save_model(
            estimator,
            serialization_format="skops",
            skops_trusted_types=trusted,
            pyfunc_predict_fn="predict_proba" if card.classes else "predict",
            pip_requirements=_requirements("scikit-learn", "skops", "pandas", "numpy"),
            **common,
        )


def _example(signature: Signature, rows: Rows) -> Any:
    return as_frame(signature, rows.take(_EXAMPLE_ROWS))


def _xgboost_packages() -> tuple[str, ...]:
    # two distributions hold the same package: with and without CUDA
    return (*(name for name in ("xgboost", "xgboost-cpu") if _is_installed(name)), "pandas", "scikit-learn")


def _is_installed(name: str) -> bool:
    try:
        installed(name)
    except PackageNotFoundError:
        return False
    return True


def _requirements(*names: str) -> list[str]:
    # named here, or MLflow starts a process that loads the model to guess them (10 s)
    return [f"{name}=={installed(name)}" for name in names]
