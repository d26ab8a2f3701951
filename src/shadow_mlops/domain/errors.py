"""Every error that the platform raises on purpose.

::

    ShadowError
    ├── DeploymentError            the deployment file is wrong (path, line)
    ├── SettingsError              an environment variable or flag is wrong
    ├── AccessRuleError            a route of which nobody said who may use it: a defect, told at start
    ├── RequestError               a client's request is wrong
    │   ├── MalformedBodyError     not JSON, not UTF-8, nested too deep
    │   ├── BodyTooLargeError      more bytes or rows than allowed
    │   ├── ContentTypeError       not application/json
    │   ├── InvalidFieldsError     a field is unknown, absent, or of the wrong type
    │   ├── RateLimitedError       more requests than the limit allows
    │   ├── UnauthenticatedError   no credentials, or wrong ones
    │   └── ForbiddenError         credentials of somebody who may not do this
    ├── ConflictError              the state forbids it (pinned version, name already running)
    ├── UnavailableError           try again later (no model yet, log not writable)
    ├── LogError                   the event log
    │   ├── AppendError            a frame could not be written; nothing of it is in the log
    │   └── CorruptFrameError      bytes that are not a frame
    ├── ModelError                 models and their registry
    │   ├── ModelNotFoundError     no such name, version or alias
    │   ├── ModelRefusedError      a version that may not serve, with the reason
    │   ├── RegistryError          the registry does not answer
    │   └── PredictionError        a model failed on given rows
    ├── FeatureStoreError          a feature store that cannot be opened; the message says what to do
    ├── LakeError                  the archive
    ├── StateError                 the SQL database of audit and evidence
    ├── ImportFileError            a file whose rows cannot be taken over (path, row, column)
    ├── DriftError                 data that cannot be compared (column, both types)
    └── TrainingError              data that cannot be trained on
        └── DataRefusedError       recorded data that must not be: too little, one class, a store that was away

HTTP status codes and exit codes are given to these in one place each: ``httperrors`` and ``cli.exits``.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class ShadowError(Exception):
    """Root of all errors that the platform raises on purpose."""


class DeploymentError(ShadowError):
    """The deployment file is wrong.

    Parameters
    ----------
    message
        What is wrong and what to do.
    path
        File in which it is.
    line
        Line, counted from 1; None when the file as a whole is meant.
    """

    def __init__(self, message: str, *, path: str = "", line: int | None = None) -> None:
        where = f"{path}:{line}: " if line is not None else f"{path}: " if path else ""
        super().__init__(where + message)
        self.line = line


class SettingsError(ShadowError):
    """An environment variable or a flag is wrong."""


class AccessRuleError(ShadowError):
    """A route of which nobody said who may use it, or whose rule nothing keeps."""


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """One thing wrong with a request: the field (with its row, in a batch) and what is wrong with it."""

    field: str
    problem: str
    index: int | None = None


class RequestError(ShadowError):
    """A client's request is wrong."""

    def __init__(self, message: str, problems: Sequence[Problem] = ()) -> None:
        super().__init__(message)
        self.problems = tuple(problems)


class MalformedBodyError(RequestError):
    """The body is not JSON."""


class BodyTooLargeError(RequestError):
    """The body has more bytes, or more rows, than allowed."""


class ContentTypeError(RequestError):
    """The body is not declared as JSON."""


class InvalidFieldsError(RequestError):
    """Fields are unknown, absent or of the wrong type; ``problems`` names each."""


class RateLimitedError(RequestError):
    """More requests than the limit allows."""

    def __init__(self, message: str, *, limit: int, remaining: int, reset_seconds: int) -> None:
        super().__init__(message)
        self.limit = limit
        self.remaining = remaining
        self.reset_seconds = reset_seconds


class UnauthenticatedError(RequestError):
    """Nobody is named who may do this; the message says where the token is."""


class ForbiddenError(RequestError):
    """Whoever is named may not do this."""


class ConflictError(ShadowError):
    """The state of the system forbids it."""


class UnavailableError(ShadowError):
    """It cannot be done now; the same request may succeed later."""


class LogError(ShadowError):
    """The event log."""


class AppendError(LogError):
    """A frame could not be written; nothing of it is in the log."""


class CorruptFrameError(LogError):
    """Bytes that are not a frame."""


class ModelError(ShadowError):
    """Models and their registry."""


class ModelNotFoundError(ModelError):
    """No such model name, version or alias."""


class ModelRefusedError(ModelError):
    """A version that may not serve; the message says why."""


class RegistryError(ModelError):
    """The model registry does not answer."""


class PredictionError(ModelError):
    """A model failed on the given rows."""


class FeatureStoreError(ShadowError):
    """A feature store that cannot be opened as it is declared; one that does not answer is an UnavailableError."""


class LakeError(ShadowError):
    """The archive cannot be read or written."""


class StateError(ShadowError):
    """The SQL database cannot be read or written."""


class ImportFileError(ShadowError):
    """A file whose rows cannot be taken over; the message names the row or the column, and what to do."""


class DriftError(ShadowError):
    """Data that cannot be compared; the message names the file or the column, and what to do."""


class TrainingError(ShadowError):
    """Data that cannot be trained on; the message names the column."""


class DataRefusedError(TrainingError):
    """Recorded data that a new version must not be trained on; the message says what there is and what is needed."""
