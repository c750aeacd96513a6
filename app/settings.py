"""Typed settings, from the environment (prefix STEPSTREAM_) or a `.env` file. Insecure values are refused."""

import os
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import unquote, urlsplit

from pydantic import AfterValidator, AliasChoices, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app import clock

DEFAULT_DATA_DIR = Path.home() / ".stepstream"
SECRET_FILE = "secret.key"  # noqa: S105 - a file name


class SettingsError(ValueError):
    """A setting that cannot be used; the message says which and what to do."""


class Settings(BaseSettings):
    """Every knob of a process. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(env_prefix="STEPSTREAM_", env_file=".env", extra="ignore", populate_by_name=True)

    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = DEFAULT_DATA_DIR
    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    allowed_origins: Annotated[list[str], NoDecode] = Field(
        default_factory=list, validation_alias=AliasChoices("STEPSTREAM_ALLOWED_ORIGINS", "ALLOWED_ORIGINS")
    )
    log_format: Literal["human", "json"] = "json"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("STEPSTREAM_DATABASE_URL", "DATABASE_URL")
    )
    api_database_url: SecretStr | None = Field(default=None, validation_alias="API_DATABASE_URL")
    engine_database_url: SecretStr | None = Field(default=None, validation_alias="ENGINE_DATABASE_URL")
    auth_database_url: SecretStr | None = Field(default=None, validation_alias="AUTH_DATABASE_URL")
    db_password_file: Path | None = None
    secret_key_file: Path | None = None
    previous_secret_key_file: Path | None = Field(
        default=None, description="The master secret before the present one, until `stepstream keys rotate` is done."
    )
    api_pool_size: int = Field(default=8, ge=1, le=100)
    writers: int = Field(default=1, ge=1, le=8, description="Recorder connections.")

    lease_ttl: float = Field(default=30.0, ge=1, le=600)
    scan_interval: float = Field(default=1.0, ge=0.05, le=60)
    max_running: int = Field(default=512, ge=1, le=100_000, description="Executions driven at once by this process.")
    max_running_per_user: int = Field(
        default=10, ge=0, le=100_000, description="Executions of one user that run at once, everywhere; 0: any number."
    )
    max_running_per_org: int = Field(
        default=0, ge=0, le=1_000_000, description="Executions of one organisation that run at once; 0: any number."
    )
    max_recoveries: int = Field(default=5, ge=1, le=100)
    cancel_grace: float = Field(default=10.0, ge=0, le=600)
    drain_budget: float = Field(default=20.0, ge=0, le=600)

    crashpoints: str = Field(default="", description="For tests of recovery: where to die, see `app.crashpoints`.")

    access_token_ttl: float = Field(default=600.0, ge=30, le=86_400)
    refresh_token_ttl: float = Field(default=30 * 86_400.0, ge=60)
    max_body: int = Field(default=1 << 20, ge=1024)
    max_workflow_body: int = Field(default=2 << 20, ge=1024)
    max_output: int = Field(default=1 << 20, ge=1024)

    allowed_hosts: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Names by which clients may address this server; none: any."
    )
    trusted_proxies: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Addresses and networks whose X-Forwarded-For and -Proto are believed."
    )
    header_timeout: float = Field(default=10.0, gt=0, le=600, description="For the whole head of a request.")
    body_timeout: float = Field(default=30.0, gt=0, le=3600, description="For the whole body of a request.")
    keep_alive_timeout: int = Field(default=20, ge=1, le=3600, description="How long an idle connection is kept.")
    max_connections: int = Field(default=10_000, ge=10, le=1_000_000)
    max_requests: int = Field(default=512, ge=1, le=100_000, description="Requests worked on at once.")
    max_request_bytes: int = Field(default=64 << 20, ge=1 << 20, description="Of the bodies of those requests.")
    max_waiting_requests: int = Field(
        default=2_000, ge=0, le=100_000, description="Requests that wait for the end of a run (`Prefer: wait`)."
    )
    max_request_rate: int = Field(
        default=20_000, ge=0, description="Requests of one user or API key in 10 s; 0: any number."
    )
    max_started_per_minute: int = Field(
        default=0, ge=0, description="Executions that an organisation may start in a minute, everywhere; 0: any number."
    )
    max_refused_rate: int = Field(
        default=10_000, ge=0, description="Refused credentials from one address in 10 s; 0: any number."
    )
    max_streams_per_user: int = Field(default=20, ge=0, description="Open streams of a user; 0: any number.")
    max_streams_per_org: int = Field(default=100, ge=0, description="Open streams of an organisation; 0: any number.")

    egress_allow_cidrs: Annotated[list[str], NoDecode] = Field(
        default_factory=list, description="Private networks that http.request may reach."
    )
    egress_ports: Annotated[list[int], NoDecode] = Field(default_factory=lambda: [80, 443])
    openai_base_url: str | None = Field(default=None, description="An OpenAI-compatible endpoint for `openai:` models.")
    openai_api_key: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("STEPSTREAM_OPENAI_API_KEY", "OPENAI_API_KEY")
    )

    @field_validator(
        "allowed_origins", "egress_allow_cidrs", "egress_ports", "allowed_hosts", "trusted_proxies", mode="before"
    )
    @classmethod
    def _comma_separated(cls, value: object) -> object:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @field_validator("allowed_origins")
    @classmethod
    def _no_wildcard(cls, value: list[str]) -> list[str]:
        if "*" in value:
            raise ValueError("ALLOWED_ORIGINS lists exact origins; '*' would let any site use a signed-in browser")
        return value

    @cached_property
    def secret(self) -> bytes:
        """The deployment's master secret, from `secret_key_file` or the data directory; raises SettingsError."""
        path = self.secret_key_file or self.data_dir / SECRET_FILE
        return _read_secret(path, "STEPSTREAM_SECRET_KEY_FILE")

    @cached_property
    def db_secret(self) -> bytes:
        """What the passwords of the database roles derive from: `db_password_file`, else the master secret."""
        if self.db_password_file is None:
            return self.secret
        return _read_secret(self.db_password_file, "STEPSTREAM_DB_PASSWORD_FILE")

    @cached_property
    def master_secrets(self) -> tuple[bytes, ...]:
        """What the master keys of stored secrets derive from, the present one first; raises SettingsError."""
        if self.previous_secret_key_file is None:
            return (self.secret,)
        return self.secret, _read_secret(self.previous_secret_key_file, "STEPSTREAM_PREVIOUS_SECRET_KEY_FILE")

    @property
    def secret_values(self) -> tuple[str, ...]:
        """Values of this deployment that must never appear in an output, an event or an error; raises SettingsError."""
        urls = (self.database_url, self.api_database_url, self.engine_database_url, self.auth_database_url)
        given = [url.get_secret_value() for url in urls if url is not None]
        parts = [urlsplit(url) for url in given]
        words = {word for part in parts for word in (part.username, part.hostname, part.path.strip("/"))}
        passwords = {unquote(part.password or "") for part in parts} - words  # else names would be cut out of outputs
        keys = [] if self.openai_api_key is None else [self.openai_api_key.get_secret_value()]
        masters = [secret.decode("utf-8", "replace") for secret in {*self.master_secrets, self.db_secret}]
        return (*given, *passwords, *keys, *masters)

    def ensure_data_dir(self) -> None:
        """Create the data directory (0700) and its secret key (0600) on first use."""
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.secret_key_file or self.data_dir / SECRET_FILE
        if not path.exists():
            write_private(path, clock.new_secret(48))


def _read_secret(path: Path, variable: str) -> bytes:
    try:
        secret = path.read_bytes().strip()
    except OSError as error:
        raise SettingsError(
            f"No secret at {path}: set {variable} to a file of at least 32 random bytes, "
            "the same for every process of this deployment"
        ) from error
    if len(secret) < 32:
        raise SettingsError(f"The secret at {path} is too short: it needs at least 32 bytes")
    return secret


def write_private(path: Path, text: str) -> None:
    """Create a file that only its owner reads (0600); an existing one is left alone."""
    try:
        handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    except FileExistsError:
        return
    with os.fdopen(handle, "w") as file:
        file.write(text)
