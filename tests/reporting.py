"""A data directory with a champion's card, and an intake on it, for the tests of ``POST /events``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from shadow_mlops.console.intake import Intake
from shadow_mlops.domain.deployment import Deployment
from shadow_mlops.domain.events import EVENTS
from shadow_mlops.domain.features import Feature, Signature
from shadow_mlops.domain.models import ModelCard, Serving, Task
from shadow_mlops.eventlog import EventBatch, Frame
from shadow_mlops.eventlog.memory import MemoryLog
from shadow_mlops.telemetry.metrics import open_metrics

SIGNATURE = Signature((Feature("tenure", "integer"), Feature("plan", "string"), Feature("charges")))
FEATURES = {"tenure": 12, "plan": "gold", "charges": 70.5}


class Console:
    """An intake, and what it wrote."""

    def __init__(
        self,
        data_dir: Path,
        *,
        task: Task = "binary",
        classes: tuple[str, ...] = ("0", "1"),
        deployment: dict[str, Any] | None = None,
        **more: Any,
    ) -> None:
        self.data_dir = data_dir
        self.log = MemoryLog()
        self.metrics = open_metrics()
        self.deployment = msgspec.convert({"name": "churn", "task": task, **(deployment or {})}, Deployment)
        self.card = ModelCard(
            name="churn",
            version="2.1.0",
            registry_version="1",
            task=task,
            runtime="none",
            file="none",
            sha256="",
            signature=SIGNATURE,
            classes=classes,
        )
        directory = data_dir / "models" / "churn" / "1"
        directory.mkdir(parents=True)
        (directory / "card.json").write_bytes(msgspec.json.encode(self.card))
        serving = Serving(generation=1, published_at="", champion="models/churn/1")
        (data_dir / "serving.json").write_bytes(msgspec.json.encode(serving))
        self.intake = Intake(self.log, data_dir, self.deployment, metrics=self.metrics, **more)

    def post(self, content: object, kind: str = "application/json", **headers: str) -> Any:
        body = content if isinstance(content, bytes) else msgspec.json.encode(content)
        status, answer = self.intake.accept({"content-type": kind, **headers}, body)
        assert status == 202
        return answer

    def batches(self) -> list[EventBatch]:
        """Every batch of the event stream."""
        tail = self.log.tail(EVENTS)
        found = []
        while items := tail.poll(10**6):
            found += [item.batch for item in items if isinstance(item, Frame)]
        return found

    def value(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(name, labels) or 0.0
