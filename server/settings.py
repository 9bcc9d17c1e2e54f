"""Settings: flags over environment (MXSERVE_...) over a TOML file (--config) over defaults.

Knows every setting's name, range and spelling; nothing of what acts on them.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from model.kernel_choice import KernelChoice, parse_choice
from model.mtp_policy import MtpDepth
from model.thinking import EFFORT_BUDGETS
from server.engine import EngineSettings
from server.engine.cache_folder import default_folder
from server.keys import read_key_file
from server.state_folder import state_folder

PREFIX = "MXSERVE_"
MIB = 1 << 20
DEFAULT_BUDGETS: Mapping[str, int | None] = {
    effort: budget for effort, budget in EFFORT_BUDGETS.items() if effort != "none"
}
_UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?i?)b?", re.IGNORECASE)
_NAME = re.compile(r"[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]")
_ORIGIN = re.compile(rf"[A-Za-z][A-Za-z0-9+.-]*://({_NAME.pattern})(:\d{{1,5}})?")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s)", re.IGNORECASE)


class SettingsError(ValueError):
    """A setting that cannot be used; str() is one line for the terminal."""


class Settings(BaseSettings):
    """Everything `mxserve serve` can be told. Sizes are in bytes, times in seconds, idle_unload in
    minutes."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="forbid", frozen=True)

    config: Path | None = None
    model: str | None = None
    served_model_name: str | None = Field(None, min_length=1, max_length=256)
    host: str = "localhost"
    port: int = Field(8080, ge=0, le=65535)
    max_queue: int = Field(64, ge=0, le=100_000)
    max_batch: int = Field(16, ge=1, le=256)
    target_gap: float = Field(0.120, gt=0, le=60)
    deterministic: bool = False
    kernels: Annotated[KernelChoice, NoDecode] = "auto"
    mtp: Path | None = None
    mtp_depth: MtpDepth = "auto"
    watchdog: float = Field(60.0, gt=0)
    idle_unload: float | None = Field(None, gt=0)
    keep_warm: float | None = Field(None, gt=0)
    cache_bytes: int | None = Field(None, ge=0)
    disk_cache: Path | Literal["off"] | None = None
    disk_cache_bytes: int = Field(20 << 30, ge=0)
    response_store: Path | Literal["memory", "off"] | None = None
    response_store_bytes: int = Field(1 << 30, ge=0)
    effort_budgets: Annotated[Mapping[str, int | None], NoDecode] = DEFAULT_BUDGETS
    request_timeout: float | None = Field(None, gt=0)
    max_body_bytes: int = Field(32 * MIB, ge=1024)
    max_connections: int = Field(1000, ge=1, le=100_000)
    header_timeout: float = Field(10.0, gt=0)
    body_timeout: float = Field(30.0, gt=0)
    ping_interval: float = Field(10.0, gt=0)
    send_timeout: float = Field(60.0, gt=0)
    drain_timeout: float = Field(30.0, ge=0)
    api_key: Annotated[tuple[SecretStr, ...], NoDecode] = ()
    key_file: Path | None = None
    cors_origin: Annotated[list[str], NoDecode] = Field(default_factory=list)
    allowed_host: Annotated[list[str], NoDecode] = Field(default_factory=list)
    strict_model: bool = False
    no_page: bool = False
    metrics_open: bool = False
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_file: Path | None = None
    log_format: Literal["text", "json"] = "text"
    log_prompts: bool = False

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        path = init_settings().get("config") or env_settings().get("config")
        if path is None:
            return init_settings, env_settings
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, Path(path))

    @field_validator(
        "cache_bytes", "disk_cache_bytes", "response_store_bytes", "max_body_bytes", mode="before"
    )
    @classmethod
    def _size(cls, value: Any) -> Any:
        if not isinstance(value, str) or value == "auto":
            return value
        match = _SIZE.fullmatch(value.strip())
        if match is None:
            raise ValueError(f"must be a size such as 512MiB or 8GiB; got {value!r}")
        return int(float(match[1]) * _UNITS[match[2].lower()])

    @field_validator("cache_bytes", mode="before")
    @classmethod
    def _automatic(cls, value: Any) -> Any:
        return None if value == "auto" else value

    @field_validator("target_gap", mode="before")
    @classmethod
    def _seconds(cls, value: Any) -> Any:
        match = _SECONDS.fullmatch(value.strip()) if isinstance(value, str) else None
        return float(match[1]) * (0.001 if match[2].lower() == "ms" else 1) if match else value

    @field_validator("keep_warm", mode="before")
    @classmethod
    def _off(cls, value: Any) -> Any:
        return None if value == "off" else value

    @field_validator("disk_cache", mode="before")
    @classmethod
    def _folder(cls, value: Any) -> Any:
        if value in ("", "off"):
            return "off"
        return Path(value).expanduser().absolute() if isinstance(value, (str, Path)) else value

    @field_validator("log_file", mode="before")
    @classmethod
    def _file_of_log(cls, value: Any) -> Any:
        return Path(value).expanduser().absolute() if isinstance(value, (str, Path)) else value

    @field_validator("response_store", mode="before")
    @classmethod
    def _place(cls, value: Any) -> Any:
        return value if value == "memory" else cls._folder(value)

    @field_validator("cors_origin", "allowed_host", mode="before")
    @classmethod
    def _list(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [item.strip() for item in value.split(",") if item.strip()]

    @field_validator("cors_origin")
    @classmethod
    def _origins(cls, value: list[str]) -> list[str]:
        for origin in value:
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"must be * or such as https://app.example:8443; got {origin!r}")
        return [origin.lower() for origin in value]

    @field_validator("allowed_host")
    @classmethod
    def _names(cls, value: list[str]) -> list[str]:
        for name in value:
            if not _NAME.fullmatch(name):
                text = "must be a name or address without scheme and port, IPv6 in brackets"
                raise ValueError(f"{text}; got {name!r}")
        return value

    @field_validator("mtp_depth", mode="before")
    @classmethod
    def _depth(cls, value: Any) -> Any:
        return int(value) if isinstance(value, str) and value in "0123" and value else value

    @field_validator("kernels", mode="before")
    @classmethod
    def _choice(cls, value: Any) -> Any:
        return parse_choice(value) if isinstance(value, str) else value

    @field_validator("effort_budgets", mode="before")
    @classmethod
    def _budgets(cls, value: Any) -> dict[str, int | None]:
        pairs = value.items() if isinstance(value, Mapping) else _pairs(value)
        return {**DEFAULT_BUDGETS, **{name: _budget(name, budget) for name, budget in pairs}}

    @field_validator("api_key", mode="before")
    @classmethod
    def _keys(cls, value: Any) -> Any:
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, (list, tuple)):
            return value
        return tuple(key for part in parts for key in _split(part))

    @field_validator("api_key")
    @classmethod
    def _legal(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for key in (secret.get_secret_value() for secret in value):
            if not key or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError("must be ASCII, without spaces and not empty; several: K1,K2")
        return value

    @field_validator("key_file", mode="before")
    @classmethod
    def _file(cls, value: Any) -> Any:
        return Path(value).expanduser().absolute() if isinstance(value, (str, Path)) else value

    @field_validator("key_file")
    @classmethod
    def _readable(cls, value: Path | None) -> Path | None:
        if value is not None and not read_key_file(value):
            raise ValueError(f"{value} has no keys (mxserve key new NAME --file FILE makes one)")
        return value

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if not is_loopback(self.host) and not self.api_key and self.key_file is None:
            text = f"host {self.host!r} is reachable from other machines: set api_key or key_file"
            raise ValueError(text)
        return self

    def host_names(self) -> list[str] | None:
        """The Host names answered to; None is all (on other than loopback, where none are set)."""
        if not is_loopback(self.host):
            return self.allowed_host or None
        return ["localhost", "127.0.0.1", "[::1]", _as_host(self.host), *self.allowed_host]

    def response_place(self) -> Path | Literal["memory", "off"]:
        """Where responses are kept."""
        return state_folder() / "responses" if self.response_store is None else self.response_store

    def engine(self) -> EngineSettings:
        """The engine's part of the settings."""
        return EngineSettings(
            model=self.model,
            served_model_name=self.served_model_name,
            max_queue=self.max_queue,
            max_batch=self.max_batch,
            target_gap_s=self.target_gap,
            deterministic=self.deterministic,
            kernels=self.kernels,
            mtp=self.mtp,
            mtp_depth=self.mtp_depth,
            watchdog_s=self.watchdog,
            idle_unload_s=None if self.idle_unload is None else self.idle_unload * 60,
            keep_warm_s=self.keep_warm,
            prompt_cache_bytes=self.cache_bytes,
            disk_cache=self._disk_folder(),
            disk_cache_bytes=self.disk_cache_bytes,
            request_timeout=self.request_timeout,
        )

    def _disk_folder(self) -> Path | None:
        if self.disk_cache == "off" or not self.disk_cache_bytes or self.cache_bytes == 0:
            return None
        return default_folder() if self.disk_cache is None else self.disk_cache


def is_loopback(host: str) -> bool:
    """Whether only programs on this machine reach `host`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _split(keys: Any) -> list[Any]:
    """The keys in one flag or variable, which has them between commas."""
    return [key.strip() for key in keys.split(",")] if isinstance(keys, str) else [keys]


def _as_host(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _pairs(value: Any) -> list[tuple[str, str]]:
    pairs = [part.partition("=") for part in str(value).split(",") if part.strip()]
    return [(name.strip(), budget.strip()) for name, _, budget in pairs]


def _budget(name: str, budget: Any) -> int | None:
    legal = f"must be EFFORT=TOKENS with efforts {', '.join(DEFAULT_BUDGETS)}"
    if name not in DEFAULT_BUDGETS:
        raise ValueError(f"{legal}; got {name!r}")
    if budget is None or budget in ("none", "unlimited"):
        return None
    text = str(budget)
    if isinstance(budget, bool) or not text.isascii() or not text.isdecimal():
        raise ValueError(f"{legal}; got {name}={budget!r}")
    return int(text)


def load_settings(flags: Mapping[str, Any] | None = None) -> Settings:
    """Settings from `flags` (only those given), the environment and the file they name.

    Raises SettingsError.
    """
    path = (flags or {}).get("config")
    if path is not None and not Path(path).is_file():
        raise SettingsError(f"config: there is no file {path}")
    try:
        return Settings(**dict(flags or {}))
    except ValidationError as error:
        raise SettingsError(_told(error.errors(include_url=False)[0])) from None
    except (ValueError, OSError) as error:  # a TOML file that cannot be read
        file = path or os.environ.get(f"{PREFIX}CONFIG")
        raise SettingsError(f"config: {file}: {error}") from None


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """Variables that look like settings and are none, as after a slip of the keyboard."""
    known = {f"{PREFIX}{name}".lower() for name in Settings.model_fields}
    ours = (name for name in environment if name.upper().startswith(PREFIX))
    return sorted(name for name in ours if name.lower() not in known)


def _told(error: ErrorDetails) -> str:
    """What is wrong with which setting, and what was found, in one line. Never a key."""
    name = ".".join(str(step) for step in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{name}: there is no such setting"
    reason = error["msg"].removeprefix("Value error, ").removeprefix("Input ")
    given = None if name.startswith("api_key") else error["input"]
    if error["type"] != "value_error" and isinstance(given, (str, int, float)):
        reason = f"{reason.partition(', unable')[0]}; got {given!r}"
    return f"{name}: {reason}" if name else reason
