"""Files of the playground as the server hands them out."""

import gzip
import re

import pytest

from llamacart_server.routes.page import POLICY, paths

SIZE_LIMIT = 100_000


def test_the_page_and_what_it_loads(client):
    response = client.get("/")
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    named = re.findall(r'(?:href|src)="([^"]+)"', response.text)
    assert len(named) == 3
    for path in (*named, *paths()):
        file = client.get(path)
        assert file.status_code == 200, path
        assert file.headers["content-security-policy"] == POLICY
        assert file.headers["x-content-type-options"] == "nosniff"
        assert file.content == paths()[file.url.path].read_bytes()


def test_the_policy_has_no_hole():
    assert "unsafe" not in POLICY
    assert "*" not in POLICY
    assert POLICY.startswith("default-src 'none'")


def test_the_files_keep_to_the_policy():
    """Neither scripts nor styles inside HTML, nor addresses of other hosts."""
    for file in paths().values():
        text = file.read_text("utf-8")
        found = re.findall(r"https?://[^\s\"'`)]+", text)
        assert [url for url in found if "www.w3.org" not in url] == [], file
        if file.suffix == ".html":
            assert not re.search(r"<style|\sstyle=|\son\w+=|<script(?![^>]*\ssrc=)", text)
        if file.suffix == ".js":
            assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write", text)


def test_what_a_browser_loads_is_small(client):
    sizes = {}
    for path in paths():
        with client.stream("GET", path, headers={"Accept-Encoding": "gzip"}) as response:
            assert response.headers["content-encoding"] == "gzip"
            raw = b"".join(response.iter_raw())
        assert gzip.decompress(raw) == paths()[path].read_bytes()
        sizes[path] = len(raw)
    assert sum(sizes.values()) < SIZE_LIMIT


def test_a_browser_that_has_a_file_is_told_so(client):
    first = client.get("/page/app.js", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in first.headers
    again = client.get("/page/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/", headers={"If-None-Match": first.headers["etag"]}).status_code == 200


def test_it_needs_no_key_and_counts_against_none(serve, engine):
    client = serve(engine, api_key=["k"], rate_limit=1)
    for path in paths():
        assert client.get(path).status_code == 200
    assert client.get("/v1/models").status_code == 401
    assert client.get("/v1/models", headers={"X-Api-Key": "k"}).status_code == 200


@pytest.mark.parametrize(
    "path", ["/page/..%2fapp.py", "/page/../settings.py", "/page/", "/page/x.js"]
)
def test_there_is_nothing_else(client, path):
    assert client.get(path).status_code == 404


def test_a_server_without_it(serve, engine):
    client = serve(engine, ui=False)
    assert client.get("/").status_code == 404
    assert client.get("/page/app.js").status_code == 404


def test_it_is_no_part_of_the_api(client):
    described = client.get("/openapi.json").json()["paths"]
    assert not [path for path in described if path == "/" or path.startswith("/page")]
