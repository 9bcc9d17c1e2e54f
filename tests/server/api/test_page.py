"""The built-in page as a server sends it: files, headers, who gets what at `/`."""

from __future__ import annotations

import re

import httpx
import pytest

from server.page import FOLDER, TYPES, file_name

ELSEWHERE = r"""(?:src|href|from|import|url)\s*[=(]?\s*["']?(?:https?:)?//"""
SINKS = r"\b(?:innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\()"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture
def served(launch):
    return launch()


@pytest.mark.parametrize("accept", [None, "*/*", "application/json", "text/plain", "text/html-ish"])
def test_programs_get_a_line_at_root(served, accept):
    headers = {} if accept is None else {"Accept": accept}
    for method in ("GET", "HEAD"):
        answer = served.http.request(method, "/", headers=headers)
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith("text/plain")
        assert answer.headers["vary"] == "Accept"


def test_browsers_get_the_page(served):
    page = served.http.get("/", headers=BROWSER)
    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.content == (FOLDER / "index.html").read_bytes()
    head = served.http.head("/", headers=BROWSER)
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == str(len(page.content))


def test_every_file_has_its_type_and_a_tag(served):
    names = [path.name for path in FOLDER.iterdir()]
    assert {name[name.rindex(".") :] for name in names} == set(TYPES), "a file nobody sends"
    for name in names:
        path = f"/page/{name}"
        answer = served.http.get(path)
        assert answer.status_code == 200
        assert answer.headers["content-type"] == TYPES[name[name.rindex(".") :]]
        assert answer.headers["cache-control"] == "no-cache"
        tag = answer.headers["etag"]
        for known in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = served.http.get(path, headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
        changed = served.http.get(path, headers={"If-None-Match": '"other"'})
        assert changed.status_code == 200


def test_the_page_is_closed_to_everything_else(served):
    for answer in (served.http.get("/", headers=BROWSER), served.http.get("/page/main.js")):
        policy = answer.headers["content-security-policy"]
        for rule in (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "connect-src 'self'",
            "img-src 'self' data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "require-trusted-types-for 'script'",
        ):
            assert rule in policy.split("; ")
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"


def test_the_page_loads_nothing_from_elsewhere():
    for path in FOLDER.iterdir():
        text = path.read_text()
        assert not re.search(ELSEWHERE, text)
        assert not re.search(SINKS, text)
        assert not re.search(r"<[^>]*\s(?:on\w+|style)=", text), "the policy allows none in HTML"


def test_files_that_are_named_are_there():
    for path in FOLDER.iterdir():
        for name in re.findall(r"""["'](?:\./|page/)([\w.]+)["']""", path.read_text()):
            assert (FOLDER / name).is_file(), f"{path.name} names {name}"


@pytest.mark.parametrize(
    "path",
    ["/page/", "/page/nothing.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page/sub/main.js"],
)
def test_other_names_are_not_found(served, path):
    url = httpx.URL(served.url).copy_with(raw_path=path.encode())
    assert httpx.get(url).status_code == 404
    assert served.http.post("/page/main.js").status_code == 404


def test_names_are_never_paths():
    assert file_name("/page//etc/passwd", "") == "/etc/passwd", "which is no file's name"
    assert file_name("/pages/main.js", "") is None


def test_needs_no_key_but_gives_nothing_without(launch):
    served = launch(api_key="s3cret")
    assert served.http.get("/", headers=BROWSER).status_code == 200
    assert served.http.get("/page/main.js").status_code == 200
    assert served.http.get("/").status_code == 401
    for path in ("/page/nothing.js", "/v1/models", "/health"):
        assert served.http.get(path, headers=BROWSER).status_code == 401


def test_is_refused_under_another_name(served):
    answer = served.http.get("/", headers={**BROWSER, "Host": "evil.example"})
    assert answer.status_code == 403
    assert served.http.get("/page/main.js", headers={"Host": "evil.example"}).status_code == 403


def test_can_be_left_out(launch):
    served = launch(no_page=True)
    answer = served.http.get("/", headers=BROWSER)
    assert answer.headers["content-type"].startswith("text/plain")
    assert served.http.get("/page/main.js").status_code == 404
