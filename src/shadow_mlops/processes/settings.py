"""How this process runs: environment variables, ``.env``, and the flags that override them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from shadow_mlops.domain.errors import SettingsError


class Settings(BaseSettings):
    """Every setting of the platform; each is in ``.env.example``."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", env_ignore_empty=True)

    api_host: str = Field("0.0.0.0", description="Address that the gateway listens on.")  # noqa: S104 - the contract's default
    api_port: int = Field(8000, ge=0, le=65535, description="Port that the gateway listens on; 0 takes a free one.")
    api_title: str = Field("Shadow MLOps API", description="Title of the API documentation.")
    api_workers: int = Field(1, ge=1, le=64, description="Gateway worker processes.")
    model_champion_version: str = Field(
        "", description="Serve this version as champion whatever the registry's alias says."
    )
    model_challenger_version: str = Field(
        "", description="Shadow this version as challenger whatever the registry's alias says."
    )
    drift_psi_threshold: float = Field(0.3, gt=0, description="PSI above which a feature has drifted.")
    drift_check_interval_hours: float = Field(24, gt=0, description="Hours between checks for retraining.")
    rate_limit_enabled: bool = Field(True, description="Limit requests per client.")
    rate_limit_requests: int = Field(60_000, ge=1, description="Requests that one client may make per window.")
    rate_limit_window_seconds: int = Field(60, ge=1, description="Length of the rate limit's window.")
    operator_token: SecretStr = Field(
        SecretStr(""), description="Bearer token of operators; empty: generated into DATA_DIR."
    )
    shadow_api_key: SecretStr = Field(
        SecretStr(""), description="Client's key that `shadow traffic` sends, where clients need one; a secret."
    )
    cors_origins: str = Field(
        "", description="Web origins whose pages may call the API, such as https://app.example.com; commas between."
    )
    deployment_file: Path = Field(
        Path("shadow.yaml"), description="Deployment file; where it is absent, the bundled example."
    )
    data_dir: Path = Field(Path(".shadow"), description="Where the log, the models and the registry live.")
    event_log_sync: Literal["normal", "full"] = Field(
        "normal", description="full: an answer leaves only when its event survives a loss of power."
    )
    mlflow_tracking_uri: str = Field("", description="MLflow registry; empty: SQLite in DATA_DIR.")
    state_url: str = Field(
        "", description="SQLAlchemy URL of the database of audit and evidence; empty: SQLite in DATA_DIR."
    )
    alert_webhook_url: SecretStr = Field(
        SecretStr(""), description="Address that takes alerts as JSON by POST; a secret, never logged."
    )
    alert_slack_url: SecretStr = Field(
        SecretStr(""), description="Incoming webhook of Slack, or of what imitates it, for alerts; a secret."
    )
    github_token: SecretStr = Field(
        SecretStr(""), description="Token that may send repository_dispatch, for retrain.action.github; a secret."
    )
    github_api_url: str = Field(
        "https://api.github.com", description="API of GitHub, or of a GitHub Enterprise Server."
    )
    console_port: int = Field(
        0,
        ge=0,
        le=65535,
        description="Loopback port of the console, to which the gateway forwards; 0 takes a free one.",
    )
    pyfunc_python: str = Field(
        "", description="Python interpreter that runs MLflow pyfunc models (needs ALLOW_PICKLE); empty: this one."
    )
    allow_pickle: bool = Field(False, description="Allow models whose loading runs code from the artefact (pickle).")
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body.")
    max_batch_rows: int = Field(1000, ge=1, description="Most instances in one batch request.")
    segment_bytes: int = Field(64 * 2**20, ge=65536, description="Bytes after which a log segment is sealed.")
    challenger_batch_rows: int = Field(256, ge=1, description="Most rows in one micro-batch of a challenger.")
    challenger_memory_mb: int = Field(
        2048, ge=128, description="Resident memory at which a challenger's scorer is replaced."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Lowest level of log lines.")

    @field_validator("alert_webhook_url", "alert_slack_url")
    @classmethod
    def _is_an_address(cls, value: SecretStr) -> SecretStr:
        # The message does not repeat it: what is no address may be a secret all the same.
        if value.get_secret_value() and urlsplit(value.get_secret_value()).scheme not in {"http", "https"}:
            raise ValueError("no address that begins with http:// or https://")
        return value

    @field_validator("github_api_url")
    @classmethod
    def _is_an_api(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:  # a port may be none
            raise ValueError("no address that begins with http:// or https://")
        return value

    @field_validator("shadow_api_key")
    @classmethod
    def _is_a_key(cls, value: SecretStr) -> SecretStr:
        # It becomes a header as it is; the message does not repeat it.
        text = value.get_secret_value()
        if not text.isascii() or not text.isprintable() or " " in text:
            raise ValueError("no key: it has spaces or characters that no header takes")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str) -> str:
        for origin in origins_of(value):
            parts = urlsplit(origin)
            if parts.scheme not in {"http", "https"} or origin != f"{parts.scheme}://{parts.netloc}" or "*" in origin:
                raise ValueError(
                    f"{origin!r} is no origin such as https://app.example.com (no path, no *, every origin by name)"
                )
        return value

    @property
    def tracking_uri(self) -> str:
        """The registry in force."""
        return self.mlflow_tracking_uri or f"sqlite:///{self.data_dir.absolute() / 'mlflow.db'}"

    @property
    def artifact_root(self) -> Path:
        """Where a SQLite registry keeps the files of its models."""
        return self.data_dir.absolute() / "artifacts"


def origins_of(text: str) -> tuple[str, ...]:
    """The origins of ``CORS_ORIGINS``.

    >>> origins_of("https://a.example, http://localhost:3000")
    ('https://a.example', 'http://localhost:3000')
    """
    return tuple(part.strip() for part in text.split(",") if part.strip())


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment and ``.env``; arguments that are not None win.

    Raises
    ------
    SettingsError
        One line naming each variable that is wrong.
    """
    try:
        return Settings(**{key: value for key, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        wrong = "; ".join(f"{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors())
        raise SettingsError(f"{wrong}. See .env.example for every setting") from None
