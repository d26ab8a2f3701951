"""Is it well? Checks of what this host's processes last said, none of which can block."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from shadow_mlops.gateway.champion import ChampionFollower
from shadow_mlops.gateway.predict import Predictor
from shadow_mlops.gateway.stored import StoredFeatures

Status: TypeAlias = Literal["ok", "degraded", "down"]
STALE_SECONDS = 15.0  # every process writes its word each second or so; three missed polls of a probe are no accident


class Check(msgspec.Struct, frozen=True):
    """Result of one check."""

    status: Status
    detail: str


class HealthChecks:
    """All checks of a gateway worker.

    Parameters
    ----------
    data_dir
        Where the processes leave their word, under ``run/``.
    refuse_without_log
        True when the deployment refuses to answer while the log cannot be written.
    """

    def __init__(
        self, data_dir: Path, follower: ChampionFollower, predictor: Predictor, *, refuse_without_log: bool
    ) -> None:
        self._run = data_dir / "run"
        self._follower = follower
        self._predictor = predictor
        self._refuse = refuse_without_log
        self.draining = False
        self.features: StoredFeatures | None = None
        """None: the deployment has no feature store."""

    def ready(self) -> bool:
        """True when this worker can answer predictions."""
        return self._follower.served is not None and not self.draining

    def report(self) -> tuple[Status, dict[str, Check]]:
        """Overall status, and each check by name."""
        checks: dict[str, Check] = {}
        for name, run in self._checks().items():
            checks[name] = run()
        for path in sorted(self._run.glob("challenger-*.json")):
            name = path.stem.removeprefix("challenger-")
            served = self._follower.served
            if served is not None and name in served.serving.challengers:
                checks[f"challenger:{name}"] = self._word(path, "is not running; the champion is unaffected")
        statuses = {check.status for check in checks.values()}
        overall: Status = "down" if "down" in statuses else "degraded" if "degraded" in statuses else "ok"
        return overall, checks

    def _checks(self) -> Mapping[str, Callable[[], Check]]:
        stored = {} if self.features is None else {"feature_store": self._feature_store}
        return stored | {
            "champion": self._champion,
            "event_log": self._log,
            "registry": lambda: self._word(self._run / "resolver.json", "aliases are not being followed"),
            "monitor": lambda: self._word(self._run / "accounting.json", "the monitor is not running"),
            "deployment": self._deployment,
        }

    def _champion(self) -> Check:
        served = self._follower.served
        if served is None:
            return Check("down", self._follower.refusal or "no champion is published yet: is the alias `champion` set?")
        refusals = [word for word in (self._follower.refusal, self._follower.canary_refusal) if word]
        problems = [*refusals, *served.serving.problems]
        if self._predictor.left_alone:
            problems.append(
                "its model is elsewhere and does not answer as it should: predictions get 503 until it does"
            )
        if problems:
            return Check("degraded", f"serving {served.card.version}; " + "; ".join(problems))
        return Check("ok", f"serving {served.card.version}, generation {served.serving.generation}")

    def _log(self) -> Check:
        failure = self._predictor.log_failure
        if failure is None:
            return Check("ok", "writable")
        return Check("down" if self._refuse else "degraded", f"cannot be written: {failure}")

    def _feature_store(self) -> Check:
        word = _read(self._run / "features.json")
        client = self.features.client if self.features is not None else None
        if client is None or word is None or word.get("status") != "ok":
            return Check("degraded", str((word or {}).get("detail") or "the feature process is not ready"))
        if client.state != "closed":
            return Check("degraded", "reads fail: requests without features get what the deployment declares for that")
        return (
            Check("ok", f"{len(client.names or ())} features")
            if client.connected
            else Check("degraded", "not connected")
        )

    def _deployment(self) -> Check:
        word = _read(self._run / "deployment.json")
        if word is not None and word.get("status") == "failed":
            return Check("degraded", f"the changed file is not in force: {word.get('detail', '')}")
        return Check("ok", "in force")

    def _word(self, path: Path, silent: str) -> Check:
        word = _read(path)
        if word is None:
            return Check("degraded", silent)
        age = time.time() - path.stat().st_mtime if path.exists() else STALE_SECONDS
        if age >= STALE_SECONDS:
            return Check("degraded", f"{silent} (last heard {age:.0f} s ago)")
        if word.get("status", "ok") != "ok":
            return Check("degraded", str(word.get("detail", "")))
        return Check("ok", str(word.get("detail", "")) or "running")


def _read(path: Path) -> dict[str, Any] | None:
    try:
        word: Any = msgspec.json.decode(path.read_bytes())
    except (OSError, msgspec.DecodeError):
        return None
    return word if isinstance(word, dict) else None
