"""The model registry: MLflow, behind the few questions that the platform asks of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import structlog

from shadow_mlops.domain.errors import ModelNotFoundError, RegistryError

log = structlog.get_logger()

VERSION_TAG = "version"
_ABSENT = frozenset({"RESOURCE_DOES_NOT_EXIST", "NOT_FOUND"})
_ENVIRONMENT = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "ERROR",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    # MLflow's own 7 retries of 120 s would hold the resolver for minutes; it has a back-off of its own
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
}


def quiet_mlflow() -> None:
    """Before the first import of MLflow: no telemetry, no chatter, no retries beyond our own. The user's values win."""
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)


class RegisteredVersion(msgspec.Struct, frozen=True, kw_only=True):
    """A model version as the registry knows it."""

    name: str
    number: str
    """The registry's own number."""
    run_id: str = ""
    tags: dict[str, str] = {}
    aliases: tuple[str, ...] = ()
    created_us: int = 0
    """Since 1970, by the registry: it has learned from nothing that happened later. 0: not known."""

    @property
    def human(self) -> str:
        """Human version: the tag ``version``, or the number of an untagged one."""
        return self.tags.get(VERSION_TAG) or self.number


@contextmanager
def _translated(what: str) -> Iterator[None]:
    import requests  # noqa: PLC0415 - MLflow's transport; as slow to import as MLflow itself
    from mlflow.exceptions import MlflowException  # noqa: PLC0415
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    try:
        yield
    except MlflowException as error:
        first = str(error).strip().partition("\n")[0]
        if error.error_code in _ABSENT:
            raise ModelNotFoundError(f"{what}: {first}") from error
        raise RegistryError(f"{what}: the model registry does not answer as it should: {first}") from error
    except (requests.RequestException, SQLAlchemyError, OSError) as error:
        first = str(error).strip().partition("\n")[0]
        raise RegistryError(f"{what}: the model registry does not answer: {first}") from error


class Registry:
    """One MLflow registry.

    Parameters
    ----------
    tracking_uri
        ``sqlite:///FILE`` or the URL of a server.
    artifact_root
        Folder for the artefacts of a SQLite registry; a server keeps its own.

    Examples
    --------
    >>> registry = Registry("sqlite:////tmp/mlflow.db", Path("/tmp/artifacts"))  # doctest: +SKIP
    >>> registry.aliases("churn")  # doctest: +SKIP
    {'champion': '1', 'challenger': '2'}
    """

    def __init__(self, tracking_uri: str, artifact_root: Path) -> None:
        self.tracking_uri = tracking_uri
        self.artifact_root = artifact_root
        self._made: Any = None

    def _client(self) -> Any:
        # mlflow takes two seconds to import: only who asks the registry pays for it
        if self._made is None:
            quiet_mlflow()
            if self.tracking_uri.startswith("sqlite:///"):
                Path(self.tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
            from mlflow import MlflowClient  # noqa: PLC0415

            with _translated("opening the registry"):
                self._made = MlflowClient(tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
        return self._made

    def aliases(self, name: str) -> dict[str, str]:
        """All aliases of a model and the registry numbers that they name, read at once.

        Raises
        ------
        ModelNotFoundError
            If no such model is registered.
        RegistryError
            If the registry does not answer.
        """
        client = self._client()
        with _translated(f"aliases of model {name!r}"):
            return {alias: str(number) for alias, number in client.get_registered_model(name).aliases.items()}

    def tags(self, name: str) -> dict[str, str]:
        """Tags of the registered model itself (not of a version)."""
        client = self._client()
        with _translated(f"tags of model {name!r}"):
            return dict(client.get_registered_model(name).tags)

    def set_tag(self, name: str, key: str, value: str) -> None:
        """Set a tag of the registered model itself."""
        client = self._client()
        with _translated(f"tag {key!r} of model {name!r}"):
            client.set_registered_model_tag(name, key, value)

    def delete_tag(self, name: str, key: str) -> None:
        """Remove a tag of the registered model itself; one that is absent is no error."""
        if key not in self.tags(name):
            return
        client = self._client()
        with _translated(f"tag {key!r} of model {name!r}"):
            client.delete_registered_model_tag(name, key)

    def names(self) -> list[str]:
        """All registered models, in alphabetical order."""
        client = self._client()
        with _translated("registered models"):
            return sorted(model.name for model in _pages(client.search_registered_models))

    def versions(self, name: str) -> list[RegisteredVersion]:
        """All versions of a model, oldest first.

        Raises
        ------
        ModelNotFoundError
            If no such model is registered.
        """
        aliases = self.aliases(name)
        client = self._client()
        with _translated(f"versions of model {name!r}"):
            found = [_version(v, aliases) for v in _pages(client.search_model_versions, f"name = {_quoted(name)}")]
        return sorted(found, key=lambda version: int(version.number))

    def numbered(self, name: str, number: str) -> RegisteredVersion:
        """The version with that registry number.

        Raises
        ------
        ModelNotFoundError
            If there is none.
        """
        client = self._client()
        with _translated(f"version {number} of model {name!r}"):
            return _version(client.get_model_version(name, number), {})

    def tagged(self, name: str, version: str) -> list[RegisteredVersion]:
        """Versions whose tag ``version`` is the given text, oldest first; several mean somebody tagged by hand."""
        client = self._client()
        wanted = f"name = {_quoted(name)} and tags.`{VERSION_TAG}` = {_quoted(version)}"
        with _translated(f"version {version!r} of model {name!r}"):
            found = [_version(v, {}) for v in _pages(client.search_model_versions, wanted)]
        return sorted(found, key=lambda each: int(each.number))

    def version(self, name: str, version: str) -> RegisteredVersion:
        """The version that a person means: by human version, else by registry number.

        Raises
        ------
        ModelNotFoundError
            If no version, or more than one, is meant.
        """
        found = self.tagged(name, version)
        if len(found) > 1:
            numbers = ", ".join(each.number for each in found)
            raise ModelNotFoundError(
                f"model {name!r} has the version {version!r} {len(found)} times: numbers {numbers}"
            )
        if found:
            return found[0]
        absent = f"model {name!r} has no version {version!r}; see: shadow models list"
        if not version.isdecimal():
            raise ModelNotFoundError(absent)
        try:
            return self.numbered(name, version)
        except ModelNotFoundError as error:
            raise ModelNotFoundError(absent) from error

    def set_alias(self, name: str, alias: str, number: str) -> None:
        """Point an alias at a registry number."""
        client = self._client()
        with _translated(f"alias {alias!r} of model {name!r}"):
            client.set_registered_model_alias(name, alias, number)

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias; one that is absent is no error."""
        client = self._client()
        with _translated(f"alias {alias!r} of model {name!r}"):
            client.delete_registered_model_alias(name, alias)

    def download(self, version: RegisteredVersion, destination: Path, path: str = "") -> Path | None:
        """Copy the artefacts of a version into a folder.

        Parameters
        ----------
        path
            Folder within the version's artefacts; empty: all of them.

        Returns
        -------
        Path or None
            Where they are; None when the version has no such path.
        """
        client = self._client()
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository  # noqa: PLC0415

        with _translated(f"artefacts of version {version.number} of model {version.name!r}"):
            uri = client.get_model_version_download_uri(version.name, version.number)
            if uri.startswith("models:/"):  # a version logged by MLflow 3 names its logged model
                uri = client.get_logged_model(uri.removeprefix("models:/").strip("/")).artifact_location
            repository = get_artifact_repository(uri, tracking_uri=self.tracking_uri, registry_uri=self.tracking_uri)
            if not repository.list_artifacts(path or None):
                return None
            destination.mkdir(parents=True, exist_ok=True)
            return Path(repository.download_artifacts(path, dst_path=str(destination)))

    def metrics(self, version: RegisteredVersion) -> dict[str, float]:
        """Metrics of the run that a version is from; empty where it names none."""
        if not version.run_id:
            return {}
        client = self._client()
        with _translated(f"run {version.run_id}"):
            return dict(client.get_run(version.run_id).data.metrics)

    def log_run(
        self,
        experiment: str,
        *,
        folders: Mapping[str, Path],
        metrics: Mapping[str, float],
        params: Mapping[str, str],
        tags: Mapping[str, str],
    ) -> str:
        """Record a finished run with the contents of local folders as its artefacts.

        Parameters
        ----------
        folders
            Artefact path -> local folder.

        Returns
        -------
        str
            Run id. A run that fails on the way is marked failed.
        """
        client = self._client()
        with _translated(f"logging a run of {experiment!r}"):
            run_id = str(client.create_run(self._experiment(experiment), tags=dict(tags)).info.run_id)
            status = "FAILED"
            try:
                for key, value in params.items():
                    client.log_param(run_id, key, value)
                for key, number in metrics.items():
                    client.log_metric(run_id, key, number)
                for where, folder in folders.items():
                    client.log_artifacts(run_id, str(folder), artifact_path=where)
                status = "FINISHED"
            finally:
                client.set_terminated(run_id, status=status)
            return run_id

    def create_version(self, name: str, *, run_id: str, path: str, tags: Mapping[str, str]) -> RegisteredVersion:
        """Register a run's artefact path as the next version of a model, which is created if it is new."""
        client = self._client()
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        with _translated(f"registering a version of model {name!r}"):
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            source = f"{client.get_run(run_id).info.artifact_uri}/{path}"
            return _version(client.create_model_version(name, source, run_id=run_id, tags=dict(tags)), {})

    def delete_version(self, version: RegisteredVersion) -> None:
        """Remove a version (of a registration that failed)."""
        client = self._client()
        with _translated(f"removing version {version.number} of model {version.name!r}"):
            client.delete_model_version(version.name, version.number)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException  # noqa: PLC0415

        client = self._client()
        found = client.get_experiment_by_name(name)
        if found is not None:
            return str(found.experiment_id)
        local = self.tracking_uri.startswith("sqlite:")
        location = (self.artifact_root.absolute() / name).as_uri() if local else None
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # two first registrations at once
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return str(client.get_experiment_by_name(name).experiment_id)


def _version(found: Any, aliases: Mapping[str, str]) -> RegisteredVersion:
    number = str(found.version)
    own = tuple(sorted(alias for alias, target in aliases.items() if target == number))
    return RegisteredVersion(
        name=found.name,
        number=number,
        run_id=found.run_id or "",
        tags=dict(found.tags),
        aliases=own,
        created_us=int(found.creation_timestamp or 0) * 1000,
    )


def _pages(search: Any, wanted: str | None = None) -> Iterator[Any]:
    token = None
    while True:
        page = search(filter_string=wanted, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def _quoted(text: str) -> str:
    if "'" in text:
        raise ModelNotFoundError(f"a model name or version has no quotation mark: {text!r}")
    return f"'{text}'"
