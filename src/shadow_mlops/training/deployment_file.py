"""The deployment file that training writes: what the data says, the rest left to the platform's defaults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pyarrow.compute as pc
import yaml

from shadow_mlops.training.dataset import Dataset

Default = float | int | str | None
_MOST_CODES = 12  # an integer with more values is a quantity, whose typical value is its median
_TIERS = {"LOW": 0.25, "MEDIUM": 0.5, "HIGH": 0.75, "CRITICAL": 1.0}


def typical_values(data: Dataset) -> dict[str, Default]:
    """Feature -> median of a quantity, most frequent value of anything else (string, flag, small code)."""
    found: dict[str, Default] = {}
    for feature in data.signature.features:
        column = data.table[feature.name].drop_null()
        counts = Counter(column.to_pylist())
        if feature.kind == "number":
            found[feature.name] = round(float(pc.quantile(column, 0.5)[0].as_py()), 4)
        elif feature.kind == "integer" and len(counts) > _MOST_CODES:
            found[feature.name] = int(pc.quantile(column, 0.5, interpolation="lower")[0].as_py())
        else:
            found[feature.name] = counts.most_common(1)[0][0]
    return found


def deployment_text(
    name: str, data: Dataset, *, defaults: Mapping[str, Default], feature_repo: Path | None = None
) -> str:
    """Text of a deployment file for a model trained on the data.

    Parameters
    ----------
    name
        Registered model.
    defaults
        Feature -> value where request and store have none; None declares that it may be missing.
    feature_repo
        Feast repository whose features fill in what a request lacks.
    """
    parts: list[dict[str, object]] = [{"name": name}, {"task": data.task}]
    if data.positive is not None:
        parts.append({"positive": data.positive})
    if data.entity is not None:
        parts.append({"entity": data.entity})
    if defaults:
        parts.append({"features": {feature: {"default": value} for feature, value in defaults.items()}})
    if data.task == "binary":
        parts.append({"decision": {"threshold": 0.5, "tiers": _TIERS}})
    if feature_repo is not None:
        parts.append({"feature_store": {"kind": "feast", "path": str(feature_repo)}})
    unused = ", ".join(column for column in data.dropped if column != data.entity)
    if unused:
        parts.append({"unknown_fields": "ignore"})
    body = "".join(_section(part) for part in parts)
    return (
        "# One deployment: review it like code. Order and types of the features come from the champion.\n"
        "# What is not named here has its default; unknown keys are refused with their line.\n"
        + (f"# Clients may send whole rows: columns of the data that no model uses are {unused}.\n" if unused else "")
        + body
    )


def _section(part: dict[str, object]) -> str:
    # Leaves of mappings on one line each, sections below each other: as people write it.
    key, value = next(iter(part.items()))
    if not isinstance(value, dict):
        return yaml.safe_dump(part, allow_unicode=True, sort_keys=False)
    lines = [_flow({inner: leaf})[1:-1] for inner, leaf in value.items()]
    return f"{key}:\n" + "".join(f"  {line}\n" for line in lines)


def _flow(value: object) -> str:
    text: str = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, sort_keys=False, width=2**20)
    return text.strip()
