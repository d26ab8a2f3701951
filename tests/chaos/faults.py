"""Plants misbehaving challengers: prepared directories whose card names a runtime of ``faulty_runtime``."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import msgspec

from shadow_mlops.domain.models import ModelCard
from shadow_mlops.models.prepared import CARD, PREPARED
from shadow_mlops.models.registry import Registry

RUNTIMES = Path(__file__).parent / "faulty_runtime"
"""Put on ``PYTHONPATH`` of the system, this folder counts as an installed distribution."""
KINDS = ("hang", "crash", "burn", "leak")


def plant(data: Path, challenger: str, kind: str) -> str:
    """Copy a prepared challenger into one that misbehaves.

    Parameters
    ----------
    data
        Data directory.
    challenger
        Directory of the good challenger, as ``serving.json`` names it.
    kind
        ``hang``, ``crash``, ``burn`` or ``leak``.

    Returns
    -------
    str
        Its directory, as ``serving.json`` names it.
    """
    directory = Path(challenger).with_name(f"faulty-{kind}")
    if not (data / directory).exists():
        shutil.copytree(data / challenger, data / directory)
        path = data / directory / "card.json"
        card = msgspec.json.decode(path.read_bytes(), type=ModelCard)
        faulty = msgspec.structs.replace(
            card, runtime=f"faulty-{kind}", version=f"0.0.0-{kind}", registry_version=f"faulty-{kind}"
        )
        path.write_bytes(msgspec.json.encode(faulty))
    return str(directory)


def register(registry: Registry, name: str, kind: str, alias: str) -> str:
    """Register a version that misbehaves under an alias, as its author's CI would; its human version.

    Parameters
    ----------
    name
        Model whose version ``challenger`` is the good one.
    kind
        ``hang``, ``crash``, ``burn`` or ``leak``.
    """
    good = registry.numbered(name, registry.aliases(name)["challenger"])
    version = f"0.0.0-{kind}"
    with tempfile.TemporaryDirectory() as scratch:
        model = registry.download(good, Path(scratch), PREPARED)
        assert model is not None
        path = model / CARD
        card = msgspec.json.decode(path.read_bytes(), type=ModelCard)
        path.write_bytes(msgspec.json.encode(msgspec.structs.replace(card, runtime=f"faulty-{kind}")))
        tags = {"version": version}
        run = registry.log_run(name, folders={f"model/{PREPARED}": model}, metrics={}, params={}, tags=tags)
    made = registry.create_version(name, run_id=run, path="model", tags=tags)
    registry.set_alias(name, alias, made.number)
    return version
