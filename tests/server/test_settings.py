"""Settings: where they come from, which wins, what is refused and how that is said."""

import pytest

from server.cli import serve_parser
from server.keys import KeyRecord, write_key_file
from server.settings import (
    DEFAULT_BUDGETS,
    Settings,
    SettingsError,
    load_settings,
    unknown_variables,
)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch):
    for name in ("HOST", "PORT", "API_KEY", "MODEL", "CONFIG", "DISK_CACHE", "KERNELS"):
        monkeypatch.delenv(f"MXSERVE_{name}", raising=False)


def test_defaults():
    settings = load_settings()
    assert (settings.host, settings.port, settings.model) == ("localhost", 8080, None)
    assert settings.effort_budgets == DEFAULT_BUDGETS
    assert settings.max_body_bytes == 32 * 2**20


def test_flags_over_environment_over_file(monkeypatch, tmp_path):
    file = tmp_path / "mxserve.toml"
    file.write_text('port = 1\nmax_queue = 1\nlog_level = "debug"\ncors_origin = ["http://a"]\n')
    monkeypatch.setenv("MXSERVE_PORT", "2")
    monkeypatch.setenv("MXSERVE_MAX_QUEUE", "2")
    settings = load_settings({"port": "3", "config": str(file)})
    assert (settings.port, settings.max_queue, settings.log_level) == (3, 2, "debug")
    assert settings.cors_origin == ["http://a"]


def test_the_environment_may_name_the_file(monkeypatch, tmp_path):
    file = tmp_path / "mxserve.toml"
    file.write_text("[effort_budgets]\nlow = 7\n")
    monkeypatch.setenv("MXSERVE_CONFIG", str(file))
    assert load_settings().effort_budgets["low"] == 7


def test_effort_budgets():
    budgets = load_settings({"effort_budgets": "low=5, high=none,max=9"}).effort_budgets
    assert budgets == {**DEFAULT_BUDGETS, "low": 5, "high": None, "max": 9}


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("5", 5), ("2GB", 2 * 10**9), ("1.5GiB", 3 * 2**29), ("10 MiB", 10 * 2**20)],
)
def test_sizes(text, size):
    assert load_settings({"cache_bytes": text}).cache_bytes == size


def test_the_cache_follows_memory_unless_told():
    assert load_settings().cache_bytes is None
    assert load_settings({"cache_bytes": "auto"}).engine().prompt_cache_bytes is None
    assert load_settings({"cache_bytes": "1GiB"}).engine().prompt_cache_bytes == 2**30


@pytest.mark.parametrize(("text", "seconds"), [("0.2", 0.2), ("80ms", 0.08), ("1.5 s", 1.5)])
def test_the_gap_in_seconds_or_milliseconds(text, seconds):
    assert load_settings({"target_gap": text}).engine().target_gap_s == pytest.approx(seconds)


def test_what_the_engine_is_told():
    flags = {
        "max_batch": "4",
        "max_queue": "5",
        "request_timeout": "6",
        "deterministic": True,
        "watchdog": "7",
        "disk_cache_bytes": "8GB",
    }
    engine = load_settings(flags).engine()
    assert (engine.max_batch, engine.max_queue, engine.request_timeout) == (4, 5, 6.0)
    assert (engine.deterministic, engine.watchdog_s) == (True, 7.0)
    assert engine.disk_cache_bytes == 8 * 10**9


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("auto", "auto"),
        ("off", "off"),
        ("delta_step, router_top_k", ("delta_step", "router_top_k")),
    ],
)
def test_kernels(text, choice, monkeypatch):
    assert load_settings({"kernels": text}).engine().kernels == choice
    monkeypatch.setenv("MXSERVE_KERNELS", text)
    assert load_settings().engine().kernels == choice


def test_kernels_are_tried_unless_told():
    assert load_settings().engine().kernels == "auto"


def test_a_kernel_that_does_not_exist():
    with pytest.raises(SettingsError, match=r"kernels: must be auto, off, or of .*'warp'"):
        load_settings({"kernels": "delta_step,warp"})


def test_the_disk_cache_has_a_folder_by_default(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    folder = load_settings().engine().disk_cache
    assert folder is not None
    assert folder.is_relative_to(tmp_path)
    assert not folder.exists()


def test_the_disk_cache_elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert load_settings({"disk_cache": "~/kv"}).engine().disk_cache == tmp_path / "kv"


@pytest.mark.parametrize(
    "flags", [{"disk_cache": "off"}, {"disk_cache_bytes": "0"}, {"cache_bytes": "0"}]
)
def test_the_disk_cache_off(flags):
    assert load_settings(flags).engine().disk_cache is None


@pytest.mark.parametrize(("given", "seconds"), [(None, None), ("off", None), ("2.5", 2.5)])
def test_keeping_a_gpu_warm(given, seconds):
    flags = {} if given is None else {"keep_warm": given}
    assert load_settings(flags).engine().keep_warm_s == seconds


def test_variables_that_are_no_settings_are_found():
    environment = {"MXSERVE_PORT": "1", "mxserve_host": "x", "MXSERVE_PROT": "2", "PROT": "3"}
    assert unknown_variables(environment) == ["MXSERVE_PROT"]


def test_a_setting_has_its_flags_name():
    for action in serve_parser()._actions:
        if action.dest != "help":
            assert action.dest in Settings.model_fields
            assert action.option_strings == [f"--{action.dest.replace('_', '-')}"]


def test_lists_from_the_environment(monkeypatch):
    monkeypatch.setenv("MXSERVE_ALLOWED_HOST", "a.local, b.local")
    assert load_settings().allowed_host == ["a.local", "b.local"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ({"port": "x"}, "port: "),
        ({"port": "70000"}, "port: "),
        ({"effort_budgets": "low"}, "EFFORT=TOKENS"),
        ({"effort_budgets": "lowest=3"}, "'lowest'"),
        ({"effort_budgets": "low=-3"}, "low='-3'"),
        ({"cache_bytes": "lots"}, "cache_bytes: must be a size such as 512MiB or 8GiB; got 'lots'"),
        ({"max_queue": "many"}, "max_queue: should be a valid integer; got 'many'"),
        ({"header_timeout": "-1"}, "header_timeout: should be greater than 0; got '-1'"),
        ({"cors_origin": ["app.example"]}, "got 'app.example'"),
        ({"cors_origin": ["https://app.example/"]}, "got 'https://app.example/'"),
        ({"allowed_host": ["http://mac.local"]}, "got 'http://mac.local'"),
        ({"allowed_host": ["mac.local:8080"]}, "without scheme and port"),
        ({"allowed_host": ["::1"]}, "IPv6 in brackets"),
        ({"host": "0.0.0.0"}, "set api_key"),
        ({"host": "::"}, "set api_key"),
        ({"host": "mac.local"}, "set api_key"),
        ({"api_key": "a b"}, "api_key: "),
        ({"api_key": ""}, "api_key: "),
        ({"api_key": "a,,b"}, "api_key: "),
        ({"api_key": "a\x00b"}, "api_key: "),
        ({"key_file": "/nowhere/keys.json"}, "has no keys"),
        ({"header_timeout": "0"}, "header_timeout: "),
        ({"max_connections": "0"}, "max_connections: "),
        ({"log_format": "xml"}, "log_format: "),
        ({"ping_interval": "0"}, "ping_interval: "),
        ({"max_batch": "0"}, "max_batch: "),
        ({"target_gap": "0ms"}, "target_gap: "),
        ({"target_gap": "fast"}, "target_gap: "),
        ({"disk_cache_bytes": "-1"}, "disk_cache_bytes: "),
        ({"watchdog": "0"}, "watchdog: "),
        ({"keep_warm": "0"}, "keep_warm: "),
        ({"keep_warm": "on"}, "keep_warm: "),
        ({"drain_timeout": "-1"}, "drain_timeout: "),
        ({"config": "nowhere.toml"}, "nowhere.toml"),
        ({"prot": "1"}, "prot: there is no such setting"),
    ],
)
def test_refused(flags, words):
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_file_is_named(tmp_path):
    file = tmp_path / "mxserve.toml"
    file.write_text("port = \n")
    with pytest.raises(SettingsError, match=f"config: {file}: "):
        load_settings({"config": str(file)})
    file.write_text("prot = 1\n")
    with pytest.raises(SettingsError, match="prot"):
        load_settings({"config": str(file)})
    file.write_text("api_key = 90210\n")
    with pytest.raises(SettingsError) as caught:
        load_settings({"config": str(file)})
    assert "90210" not in str(caught.value)


def given(settings):
    return [key.get_secret_value() for key in settings.api_key]


def test_several_keys_from_every_source(monkeypatch, tmp_path):
    assert given(load_settings({"api_key": ["a", "b,c"]})) == ["a", "b", "c"]
    monkeypatch.setenv("MXSERVE_API_KEY", "d, e")
    assert given(load_settings()) == ["d", "e"]
    monkeypatch.delenv("MXSERVE_API_KEY")
    file = tmp_path / "mxserve.toml"
    for text in ('api_key = ["f", "g"]', 'api_key = "f,g"'):
        file.write_text(text)
        assert given(load_settings({"config": str(file)})) == ["f", "g"]


def test_a_key_file_opens_other_addresses_too(tmp_path):
    path = tmp_path / "keys.json"
    with pytest.raises(SettingsError, match="has no keys"):
        load_settings({"host": "0.0.0.0", "key_file": str(path)})
    write_key_file(path, [KeyRecord.of("a", "k")])
    assert load_settings({"host": "0.0.0.0", "key_file": str(path)}).key_file == path
    path.chmod(0o666)
    with pytest.raises(SettingsError, match=r"key_file: .*chmod 600"):
        load_settings({"key_file": str(path)})


def test_a_key_opens_other_addresses():
    settings = load_settings({"host": "0.0.0.0", "api_key": "k"})
    assert settings.host_names() is None
    assert "k" not in repr(settings.api_key)


def test_loopback_answers_to_its_own_names_only():
    assert set(load_settings({"host": "127.0.0.2"}).host_names() or ()) == {
        "localhost", "127.0.0.1", "[::1]", "127.0.0.2",
    }  # fmt: skip
