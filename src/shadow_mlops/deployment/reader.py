"""YAML to :class:`~shadow_mlops.domain.deployment.Deployment`, every complaint with its line."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

import msgspec
import yaml

from shadow_mlops.deployment.gates import Refuse, check_gate
from shadow_mlops.deployment.retrains import check_retrain
from shadow_mlops.domain.deployment import Deployment, Duration, FeatureSpec, Fraction, Positive, Size
from shadow_mlops.domain.errors import DeploymentError

_AT = re.compile(r" - at `(key in )?\$(?P<path>.*)`$")
_STEP = re.compile(r"\.([A-Za-z_0-9\-]+)|\[(\d+|\.\.\.)\]")
_UNKNOWN = re.compile(r"Object contains unknown field `(?P<name>.*)`")


class _Loader(yaml.SafeLoader):
    """Keys are words: YAML 1.1 takes a bare ``on``, ``yes`` or ``no`` for a truth value, also where it is a key."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        for key, _ in node.value:
            if key.tag == "tag:yaml.org,2002:bool":
                key.tag = "tag:yaml.org,2002:str"
        return super().construct_mapping(node, deep)


def load_deployment(path: Path) -> Deployment:
    """Read and check a deployment file.

    Parameters
    ----------
    path
        YAML file.

    Raises
    ------
    DeploymentError
        The file is absent or wrong; the message has file, line, what is wrong and what to do.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise DeploymentError("no such deployment file; scripts/train_model.py writes one", path=str(path)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DeploymentError(f"cannot be read: {error}", path=str(path)) from None
    return parse_deployment(text, path=str(path))


def parse_deployment(text: str, *, path: str = "shadow.yaml") -> Deployment:
    r"""Check the text of a deployment file.

    Raises
    ------
    DeploymentError
        As :func:`load_deployment`.

    Examples
    --------
    >>> parse_deployment("name: churn\nentity: customer_id\n").shadow.max_lag
    1000000
    >>> parse_deployment("name: churn\nshadow:\n  sampel: 1\n")
    Traceback (most recent call last):
        ...
    shadow_mlops.domain.errors.DeploymentError: shadow.yaml:3: unknown key `sampel`, did you mean `sample`?
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise DeploymentError(f"is not YAML: {error.problem}", path=path, line=line) from None
    except yaml.YAMLError as error:
        raise DeploymentError(f"is not YAML: {error}", path=path) from None
    if root is None or not isinstance(data, dict):
        raise DeploymentError("is empty or no mapping; it needs at least `name: MODEL`", path=path)
    for node in _duplicates(root):
        raise DeploymentError(f"key `{node.value}` stands twice", path=path, line=node.start_mark.line + 1)
    try:
        deployment = msgspec.convert(data, Deployment, strict=True, dec_hook=_decode)
    except msgspec.ValidationError as error:
        message, line = _explain(str(error), root)
        raise DeploymentError(message, path=path, line=line) from None
    _check_together(deployment, root, path)
    return deployment


def _decode(kind: type, value: object) -> object:
    if kind is Duration:
        return Duration.parse(value)
    if kind is Size:
        return Size.parse(value)
    message = f"no decoder for {kind!r}"
    raise TypeError(message)


def _explain(message: str, root: yaml.Node) -> tuple[str, int]:
    at = _AT.search(message)
    node, line, known = root, root.start_mark.line + 1, _keys_of(())
    steps: list[str] = []
    for name, index in _STEP.findall(at["path"] if at else ""):
        step = name or index
        if step == "..." and isinstance(node, yaml.MappingNode):
            step = _culprit(node, steps[-1] if steps else "")
        child = _child(node, step)
        steps.append(step)
        if child is None:
            break
        node, line = child
    text = _AT.sub("", message)
    unknown = _UNKNOWN.search(text)
    if unknown is not None:
        known = _keys_of(tuple(steps))
        close = get_close_matches(unknown["name"], known, n=1, cutoff=0.5)
        hint = f"did you mean `{close[0]}`?" if close else f"known: {', '.join(known)}"
        child = _child(node, unknown["name"])
        return f"unknown key `{unknown['name']}`, {hint}", child[1] if child else line
    where = ".".join(steps)
    if text.startswith("Invalid enum value"):
        text += f"; known: {', '.join(_choices_at(tuple(steps)))}"
    return (f"`{where}`: {text[0].lower()}{text[1:]}" if where else text), line


def _choices_at(steps: tuple[str, ...]) -> list[str]:
    """The values that a key may have, where it may have a few only."""
    kinds: list[Any] = [msgspec.inspect.type_info(Deployment)]
    for step in steps:
        kinds = [inner for kind in _unfolded(kinds) for inner in _inside(kind, step)]
    return [str(value) for kind in _unfolded(kinds) for value in getattr(kind, "values", ())]


def _unfolded(kinds: list[Any]) -> list[Any]:
    return [each for kind in kinds for each in getattr(kind, "types", (kind,))]


def _inside(kind: Any, step: str) -> list[Any]:
    if isinstance(kind, msgspec.inspect.StructType):
        return [field.type for field in kind.fields if field.encode_name == step]
    if isinstance(kind, msgspec.inspect.DictType):
        return [kind.value_type]
    return [kind.item_type] if isinstance(kind, msgspec.inspect.VarTupleType) else []


def _culprit(node: yaml.MappingNode, parent: str) -> str:
    """Key of the first value that is refused: msgspec does not name the keys of a plain mapping."""
    kind: Any = {"features": FeatureSpec, "tiers": Fraction}.get(parent, Positive)
    for key, value in yaml.safe_load(yaml.serialize(node)).items():
        try:
            msgspec.convert(value, kind, strict=True, dec_hook=_decode)
        except msgspec.ValidationError:
            return str(key)
    return "..."


def _keys_of(steps: tuple[str, ...]) -> list[str]:
    kind: Any = Deployment
    for step in steps:
        if kind is Deployment and step == "features":
            kind = "features"
        elif kind == "features":
            kind = FeatureSpec
        else:
            field = (
                next((f for f in msgspec.structs.fields(kind) if f.encode_name == step), None)
                if isinstance(kind, type)
                else None
            )
            kind = field.type if field is not None else None
            kind = next(
                (
                    k
                    for k in getattr(kind, "__args__", (kind,))
                    if isinstance(k, type) and issubclass(k, msgspec.Struct)
                ),
                None,
            )
        if kind is None:
            return []
    return [f.encode_name for f in msgspec.structs.fields(kind)] if isinstance(kind, type) else []


def _child(node: yaml.Node, step: str) -> tuple[yaml.Node, int] | None:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if str(key.value) == step:
                return value, key.start_mark.line + 1
    if isinstance(node, yaml.SequenceNode) and step.isdigit() and int(step) < len(node.value):
        item = node.value[int(step)]
        return item, item.start_mark.line + 1
    return None


def _line_of(root: yaml.Node, *steps: str) -> int:
    node, line = root, root.start_mark.line + 1
    for step in steps:
        found = _child(node, step)
        if found is None:
            break
        node, line = found
    return line


def _duplicates(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, value in node.value:
            if str(key.value) in seen:
                yield key
            seen.add(str(key.value))
            yield from _duplicates(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _duplicates(item)


def _check_together(deployment: Deployment, root: yaml.Node, path: str) -> None:
    """What no single field shows: values that only make sense beside another."""

    def refuse(message: str, *steps: str) -> NoReturn:
        raise DeploymentError(message, path=path, line=_line_of(root, *steps))

    bounds = list(deployment.decision.tiers.values())
    if bounds != sorted(bounds) or not bounds or bounds[-1] != 1.0:
        refuse("`decision.tiers`: upper bounds must ascend and end at 1.0", "decision", "tiers")
    if list(deployment.canary.steps) != sorted(set(deployment.canary.steps)):
        refuse("`canary.steps` must ascend", "canary", "steps")
    if deployment.entity is not None and deployment.entity in deployment.features:
        refuse(
            f"`{deployment.entity}` is the entity, it cannot be a feature as well",
            "features",
            deployment.entity,
        )
    if deployment.lake.retain_days * 86400 < deployment.labels.max_delay:
        refuse(
            "`lake.retain_days` is shorter than `labels.max_delay`: late labels would find no prediction",
            "lake",
            "retain_days",
        )
    _check_drift(deployment, refuse)
    check_gate(deployment, refuse)
    check_retrain(deployment, refuse)


def _check_drift(deployment: Deployment, refuse: Refuse) -> None:
    drift = deployment.drift
    if not 1 <= drift.bucket <= 3600:
        refuse(f"`drift.bucket` is {drift.bucket:g} s; it must be from 1s to 1h", "drift", "bucket")
    if not 100 * drift.bucket <= drift.run_length <= 10 * 365 * 86400:
        refuse(
            f"`drift.run_length` is {drift.run_length:g} s; it must be from 100 buckets ({100 * drift.bucket:g} s)"
            " to 3650d",
            "drift",
            "run_length",
        )
    if drift.bucket > drift.window.hours * 3600:
        refuse("`drift.bucket` is longer than the window of `drift.window.hours`", "drift", "bucket")
    if drift.window.rows is not None and drift.window.rows < drift.window.min_rows:
        refuse(
            f"`drift.window.rows` is {drift.window.rows}, fewer than `drift.window.min_rows` ({drift.window.min_rows}):"
            " no window would ever decide",
            "drift",
            "window",
            "rows",
        )
    if drift.one_row_per_entity and deployment.entity is None:
        refuse("`drift.one_row_per_entity` needs `entity`", "drift", "one_row_per_entity")
    for name, spec in deployment.features.items():
        if not spec.drift.check and spec.drift.thresholds:
            refuse(
                f"`features.{name}.drift`: thresholds of a feature that `check: false` leaves out",
                "features",
                name,
                "drift",
            )
