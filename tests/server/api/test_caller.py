"""Who shares cached prompts: those who present the same key, and the key itself stays outside."""

import hashlib

import pytest


def tenant(served, headers):
    body = {"messages": [{"role": "user", "content": "Hi"}]}
    response = served.http.post("/v1/chat/completions", json=body, headers=headers)
    assert response.status_code == 200
    return served.engine.requests[-1].tenant


def test_nobody_in_particular(served):
    assert tenant(served, {}) == ""
    assert tenant(served, {"Authorization": "Bearer"}) == ""


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer s3cret"},
        {"authorization": "bearer s3cret"},
        {"x-api-key": "s3cret"},
    ],
)
def test_a_key_makes_a_tenant(launch, headers):
    for served in (launch(), launch(api_key="s3cret")):
        assert tenant(served, headers) == hashlib.sha256(b"s3cret").hexdigest()
        assert "s3cret" not in repr(served.engine.requests)


def test_different_keys_are_different_tenants(served):
    keys = ["a", "b", "A", "a b"]
    assert len({tenant(served, {"x-api-key": key}) for key in keys}) == len(keys)
