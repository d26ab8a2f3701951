"""The usual way: FastAPI, pydantic, scikit-learn, and the shadow in ``asyncio.create_task``.

As tutorials for shadow deployments have it. It serves the same trained models as the platform, from the same
registry: ``MLFLOW_TRACKING_URI`` says where that is, ``SHADOW_LINES`` where the shadow's lines go.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import uuid
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import skops.io
from fastapi import FastAPI
from pydantic import BaseModel, create_model

from shadow_mlops.example import ENTITY, FEATURES, NAMES

_KINDS = {"number": float, "integer": float, "boolean": float, "string": str}
_TIERS = ((0.25, "LOW"), (0.5, "MEDIUM"), (0.75, "HIGH"), (1.0, "CRITICAL"))
log = logging.getLogger("usual")


def load(alias: str) -> Any:
    """The estimator behind an alias of the registry."""
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/churn@{alias}"))
    file = next(folder.glob("*.skops"))
    return skops.io.load(file, trusted=skops.io.get_untrusted_types(file=file))


fields: dict[str, Any] = {f.name: (_KINDS[f.kind] | None, ...) for f in FEATURES}
Customer = create_model("Customer", **{ENTITY: (str, ...)}, **fields)


class Prediction(BaseModel):
    probability: float
    label: int
    confidence: float
    risk_tier: str
    model_version: str
    request_id: str


app = FastAPI()
champion, challenger = load("champion"), load("challenger")
lines = Path(os.environ["SHADOW_LINES"]).open("a", buffering=1)  # noqa: SIM115 - open as long as the process lives
shadows: set[asyncio.Task[None]] = set()


def as_trained(value: float | str | None, kind: str) -> float | str:
    if kind == "string":
        return value or ""
    return np.nan if value is None else float(value)


def score(model: Any, frame: pd.DataFrame) -> float:
    return float(model.predict_proba(frame)[0, 1])


async def shadow(frame: pd.DataFrame, request_id: str, answered: float) -> None:
    try:
        score_ = score(challenger, frame)
        lines.write(json.dumps({"request_id": request_id, "champion": answered, "challenger": score_}) + "\n")
    except Exception:
        log.exception("shadow failed")


@app.post("/predict")
async def predict(customer: Customer) -> Prediction:  # type: ignore[valid-type]
    values = customer.model_dump(exclude={ENTITY})
    frame = pd.DataFrame([[as_trained(values[f.name], f.kind) for f in FEATURES]], columns=list(NAMES))
    probability = score(champion, frame)
    request_id = uuid.uuid4().hex
    task = asyncio.create_task(shadow(frame, request_id, probability))
    shadows.add(task)
    task.add_done_callback(shadows.discard)
    return Prediction(
        probability=probability,
        label=int(probability >= 0.5),
        confidence=max(probability, 1 - probability),
        risk_tier=next(name for bound, name in _TIERS if probability <= bound),
        model_version="2.1.0",
        request_id=request_id,
    )
