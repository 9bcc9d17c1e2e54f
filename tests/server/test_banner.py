"""What `mxserve serve` says when it is ready can be pasted as it stands."""

import pytest

from server.engine import GenerationDefaults, ModelInfo
from server.serve import banner

INFO = ModelInfo("a/model", 4096, 1_700_000_000, True, GenerationDefaults(0.7, 0.8, 20, 0.0))


def test_a_key_is_asked_for_only_where_one_is_needed():
    for keyed in (False, True):
        told = banner(INFO, "http://127.0.0.1:8080", page=True, keyed=keyed)
        assert ("-H 'Authorization: Bearer KEY'" in told) == keyed


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://0.0.0.0:8080", "http://127.0.0.1:8080"),
        ("http://[::]:8080", "http://[::1]:8080"),
        ("http://10.0.0.0:8080", "http://10.0.0.0:8080"),
    ],
)
def test_all_addresses_are_none_to_ask(url, here):
    told = banner(INFO, url, page=True, keyed=True)
    assert f"ready at {url}/v1\n" in told
    assert f"in a browser: {here}/\n" in told
    assert f"curl {here}/v1/chat/completions " in told


def test_without_a_page_no_browser_is_spoken_of():
    assert "browser" not in banner(INFO, "http://127.0.0.1:8080", page=False, keyed=False)
