"""The files of the web page, as the service sends them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import services
from tests.contract.scripted_service import serving

WEB = Path(services.__file__).parent / "web"
OWN = sorted(path for path in WEB.glob("*") if path.is_file())
SCRIPTS = [path for path in OWN if path.suffix == ".js"]


async def test_the_page_and_its_parts_are_sent() -> None:
    """Everything that the page and its scripts name is there, under the type a browser asks for."""
    async with serving() as service:
        page = await service.http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        named = {
            name
            for path in OWN
            for name in re.findall(r'"(/web/[^"]+)"', path.read_text(encoding="utf-8"))
        }
        parts = {name: await service.http.get(name) for name in named}
    assert {"/web/main.js", "/web/style.css", "/web/vendor/d3.min.js"} <= named
    types = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
    for name, part in parts.items():
        assert part.status_code == 200, name
        assert part.headers["content-type"].startswith(types[name.rpartition(".")[2]])
        assert part.headers["x-content-type-options"] == "nosniff"


async def test_the_page_may_load_nothing_from_elsewhere() -> None:
    """Its policy names the service alone, and has no leave for scripts or styles in the page."""
    async with serving() as service:
        policy = (await service.http.get("/")).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["connect-src"] == "'self'"
    assert rules["frame-ancestors"] == "'none'"
    assert "unsafe" not in policy


async def test_a_page_that_has_not_changed_is_not_sent_again() -> None:
    """A browser that has a file asks whether it is still the same."""
    async with serving() as service:
        first = await service.http.get("/web/main.js")
        asked = {"if-none-match": first.headers["etag"]}
        again = await service.http.get("/web/main.js", headers=asked)
        other = await service.http.get("/web/search.js", headers=asked)
    assert first.headers["cache-control"] == "no-cache"
    assert (again.status_code, again.content) == (304, b"")
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path", ["/web/", "/web/nothing.js", "/web/../app.py", "/web/%2e%2e/app.py", "/web/vendor"]
)
async def test_no_other_file_is_sent(path: str) -> None:
    """Only what lies in the page's folder can be had."""
    async with serving() as service:
        response = await service.http.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize("path", SCRIPTS, ids=[path.name for path in SCRIPTS])
def test_no_script_makes_markup_of_text(path: Path) -> None:
    """What models wrote reaches the page as text only: nothing there reads it as markup or code."""
    written = path.read_text(encoding="utf-8")
    dangerous = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|\.html\("
    )
    assert not re.search(dangerous, written)
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", written)


def test_what_is_shipped_of_others_is_named_with_its_version_and_licence() -> None:
    """The list of versions agrees with the files, and each has its licence beside it."""
    vendor = WEB / "vendor"
    listed = (vendor / "versions.txt").read_text(encoding="utf-8")
    d3 = re.search(r"d3js\.org v([\d.]+) ", (vendor / "d3.min.js").read_text(encoding="utf-8"))
    assert d3 is not None
    assert f"d3 {d3[1]} " in listed
    dagre = re.search(r"dagre (\d+\.\d+\.\d+) ", listed)
    assert dagre is not None
    assert f'"{dagre[1]}"' in (vendor / "dagre.min.js").read_text(encoding="utf-8")
    for script in vendor.glob("*.js"):
        licence = vendor / f"{script.name.partition('.')[0]}.license.txt"
        assert "Permission" in licence.read_text(encoding="utf-8")
        assert licence.name in listed
