"""The stand-in Figma responds like the real API, including errors."""

import pytest
from tests.examples.conftest import FigmaSite
from tests.examples.samples import ATLAS
from tests.examples.test_designs import faults

FILE = f"/v1/files/{ATLAS}"


@pytest.mark.parametrize(
    ("path", "schema"),
    [
        (FILE, "GetFileResponse"),
        (f"{FILE}?depth=1", "GetFileResponse"),
        (f"{FILE}?ids=1:2", "GetFileResponse"),
        (f"{FILE}/nodes?ids=1:1,9:99", "GetFileNodesResponse"),
        (f"{FILE}/nodes?ids=1:1&depth=1", "GetFileNodesResponse"),
        (f"{FILE}/styles", "GetFileStylesResponse"),
        (f"{FILE}/meta", "GetFileMetaResponse"),
    ],
)
async def test_answers_keep_the_contract(site: FigmaSite, path: str, schema: str) -> None:
    """Every response conforms to the published API description."""
    response = await site.http.get(path)
    assert response.status_code == 200
    assert faults(response.json(), schema) == []


@pytest.mark.parametrize("what", ["", "/nodes?ids=1:1", "/styles", "/meta"])
@pytest.mark.parametrize("token", ["", "wrong"])
async def test_a_wrong_token_is_rejected(site: FigmaSite, what: str, token: str) -> None:
    """No token and a wrong token are 403 with `err`."""
    response = await site.http.get(FILE + what, headers={"X-Figma-Token": token})
    assert response.status_code == 403
    assert response.json() == {"status": 403, "err": "Invalid token"}


@pytest.mark.parametrize("what", ["", "/nodes?ids=1:1", "/meta"])
async def test_an_unknown_file_is_not_found(site: FigmaSite, what: str) -> None:
    """An unknown key is 404 with `err`."""
    response = await site.http.get(f"/v1/files/unknown{what}")
    assert response.status_code == 404
    assert response.json() == {"status": 404, "err": "Not found"}


async def test_styles_of_an_unknown_file_are_not_found(site: FigmaSite) -> None:
    """A 404 of the library endpoints has `error` and `message`."""
    response = await site.http.get("/v1/files/unknown/styles")
    assert faults(response.json(), "ErrorResponsePayloadWithErrorBoolean") == []
    assert response.json() == {"error": True, "status": 404, "message": "Not found"}


@pytest.mark.parametrize("query", ["?depth=0", "?depth=-1", "?depth=x", "?depth=²", "/nodes", "/nodes?ids=,"])
async def test_invalid_parameters_are_rejected(site: FigmaSite, query: str) -> None:
    """A depth that is not a positive integer, and missing ids, are 400 with `err`."""
    response = await site.http.get(FILE + query)
    assert response.status_code == 400
    assert faults(response.json(), "ErrorResponsePayloadWithErrMessage") == []


async def test_depth_truncates_the_tree(site: FigmaSite) -> None:
    """Depth 1 of a file is its pages; depth 1 of a node is its children."""
    file = (await site.http.get(f"{FILE}?depth=1")).json()
    node = (await site.http.get(f"{FILE}/nodes?ids=1:1&depth=1")).json()["nodes"]["1:1"]["document"]
    assert [page["children"] for page in file["document"]["children"]] == [[], [], []]
    assert len(node["children"]) == 9
    assert node["children"][0]["children"] == []


async def test_ids_prune_the_tree(site: FigmaSite) -> None:
    """With ids, the response has the nodes, their ancestors and descendants, and every page."""
    pages = (await site.http.get(f"{FILE}?ids=1-2")).json()["document"]["children"]
    (component_set,) = pages[0]["children"]
    assert len(pages) == 3
    assert [child["id"] for child in component_set["children"]] == ["1:2"]
    assert component_set["children"][0]["children"]


async def test_a_node_comes_with_its_styles_only(site: FigmaSite) -> None:
    """The tables of a node have the entries of its subtree; an unknown node is null."""
    nodes = (await site.http.get(f"{FILE}/nodes?ids=1:1,9:99")).json()["nodes"]
    assert {style["name"] for style in nodes["1:1"]["styles"].values()} >= {"brand/600", "label/md"}
    assert "success/700" not in {style["name"] for style in nodes["1:1"]["styles"].values()}
    assert nodes["9:99"] is None


async def test_requests_are_counted_by_path(site: FigmaSite) -> None:
    """`requests` has the number of requests by path."""
    for _ in range(2):
        await site.http.get(f"{FILE}/meta")
    await site.http.get(f"{FILE}/nodes?ids=1:1")
    assert site.figma.requests == {f"{FILE}/meta": 2, f"{FILE}/nodes": 1}


async def test_an_edit_changes_version_and_content(site: FigmaSite) -> None:
    """After an edit, responses have the new content, a higher version and a later date."""
    before = (await site.http.get(f"{FILE}/meta")).json()
    edit = {"file_key": ATLAS, "node_id": "1:1", "text": "Send", "fill": "#123456"}
    assert (await site.http.post("/_standin/edit", json=edit)).status_code == 200
    after = (await site.http.get(f"{FILE}/meta")).json()
    node = (await site.http.get(f"{FILE}/nodes?ids=1:1")).text
    assert int(after["version"]) == int(before["version"]) + 1
    assert after["last_touched_at"] > before["last_touched_at"]
    assert node.count('"Send"') == 9


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"{}",
        b'{"file_key": "unknown", "node_id": "1:1", "text": "x"}',
        b'{"file_key": "aT1as7DeSiGn2SyStEm9Qk", "node_id": "9:99", "text": "x"}',
        b'{"file_key": "aT1as7DeSiGn2SyStEm9Qk", "node_id": "1:1"}',
        b'{"file_key": "aT1as7DeSiGn2SyStEm9Qk", "node_id": "1:1", "text": "x", "fill": "red"}',
    ],
)
async def test_a_bad_edit_changes_nothing(site: FigmaSite, body: bytes) -> None:
    """An invalid edit is 400 and leaves the file unchanged."""
    before = (await site.http.get(FILE)).content
    response = await site.http.post("/_standin/edit", content=body)
    assert response.status_code == 400
    assert (await site.http.get(FILE)).content == before


async def test_an_unknown_path_is_not_found(site: FigmaSite) -> None:
    """An unknown path is 404 in the API's error format."""
    response = await site.http.get("/v1/unknown")
    assert response.json() == {"status": 404, "err": "Not found"}
