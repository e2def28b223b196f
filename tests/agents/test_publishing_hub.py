"""Pushing a folder, to a hub that is a small server in this process."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import disable_progress_bars, enable_progress_bars

from agents.publishing import ModelCard, PushError, check_repository, publish, push_folder
from textenvs.errors import ConfigError, TextEnvsError

# huggingface_hub passes a file to its HTTP library in a way that this one calls outdated.
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>':DeprecationWarning")

TOKEN = "hf_a_made_up_token"
CARD = ModelCard("sft", "tiny-lm", "right answers", "textenvs sft", {"seed": 0}, {"correct": 0.5})


class Request(NamedTuple):
    method: str
    path: str
    token: str
    body: bytes


class HubHandler(BaseHTTPRequestHandler):
    """Answers as a hub does: new repository, card check, preupload, LFS, commit."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        token = str(self.headers.get("authorization", "")).removeprefix("Bearer ")
        self.server.requests.append(Request("POST", self.path, token, body))  # type: ignore[attr-defined]
        status = self.server.refuse_with  # type: ignore[attr-defined]
        if status:
            self._answer(status, {"error": "You have no right to do that"})
        elif self.path == "/api/repos/create":
            self._answer(200, {"url": f"{self._address()}/me/name"})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            self._answer(200, {"files": [self._upload_mode(f["path"]) for f in files]})
        elif self.path.endswith("/lfs/objects/batch"):
            wanted = json.loads(body)["objects"]
            objects = [{**o, "actions": {"upload": self._upload_to(o["oid"])}} for o in wanted]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif "/commit/" in self.path:
            url = f"{self._address()}/me/name/commit/abc"
            self._answer(200, {"commitUrl": url, "commitOid": "abc", "success": True})
        else:
            self._answer(404, {"error": self.path})

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.requests.append(Request("PUT", self.path, "", body))  # type: ignore[attr-defined]
        self._answer(403 if self.server.refuse_storage else 200, {})  # type: ignore[attr-defined]

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def _address(self) -> str:
        return f"http://127.0.0.1:{self.server.server_address[1]}"

    def _upload_mode(self, path: str) -> dict[str, Any]:
        mode = "lfs" if path.endswith(".safetensors") else "regular"
        return {"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": None}

    def _upload_to(self, oid: str) -> dict[str, Any]:
        return {"href": f"{self._address()}/storage/{oid}", "header": {}}

    def _answer(self, status: int, value: Any) -> None:
        data = json.dumps(value).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A hub at $HF_ENDPOINT, and a token for it; no real hub or token is in reach."""
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), HubHandler)
    server.requests, server.refuse_with, server.refuse_storage = [], 0, False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    disable_progress_bars()
    yield server
    enable_progress_bars()
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def saved(model_folder: Callable[..., Path]) -> Path:
    folder = model_folder()
    (folder / "training.safetensors").write_bytes(b"optimiser")
    (folder / "training.json").write_text("{}")
    return folder


def committed(hub: Any) -> dict[str, Any]:
    """Return path -> text of the files of the commit, None for those in the storage."""
    (commit,) = [r for r in hub.requests if "/commit/" in r.path]
    lines = [json.loads(line) for line in commit.body.splitlines()]
    files = {}
    for line in lines:
        if line["key"] == "file":
            files[line["value"]["path"]] = base64.b64decode(line["value"]["content"]).decode()
        elif line["key"] == "lfsFile":
            files[line["value"]["path"]] = None
    return files


def test_a_push_makes_a_private_repository_and_uploads_the_folder(hub: Any, saved: Path) -> None:
    publish(saved, CARD, push_to_hub="me/name")
    assert hub.requests[0].path == "/api/repos/create"
    assert json.loads(hub.requests[0].body) == {
        "name": "name",
        "organization": "me",
        "visibility": "private",
    }
    files = committed(hub)
    assert files["README.md"] == (saved / "README.md").read_text()
    assert json.loads(files["stage.json"])["stage"] == "sft"
    assert {"config.json", "tokenizer.json", "model.safetensors"} <= files.keys()
    assert not [name for name in files if name.startswith("training.")]
    stored = [r.body for r in hub.requests if r.method == "PUT"]
    assert stored == [(saved / "model.safetensors").read_bytes()]
    assert {r.token for r in hub.requests if r.method == "POST"} == {TOKEN}


def test_a_repository_can_be_public(hub: Any, saved: Path) -> None:
    publish(saved, CARD, push_to_hub="me/name", private=False)
    assert json.loads(hub.requests[0].body)["visibility"] == "public"


def test_the_address_of_the_commit_is_returned(hub: Any, saved: Path) -> None:
    assert push_folder(saved, "me/name").endswith("/me/name/commit/abc")


def test_nothing_is_sent_unless_asked_for(hub: Any, saved: Path) -> None:
    publish(saved, CARD)
    assert hub.requests == []


def test_a_refusal_comes_after_the_save_and_says_how_to_push_later(hub: Any, saved: Path) -> None:
    hub.refuse_with = 403
    with pytest.raises(PushError, match=r"saved at .*; not pushed: refused: .*403") as refused:
        publish(saved, CARD, push_to_hub="me/name")
    assert f"hf upload me/name {saved} --private --exclude training.json" in str(refused.value)
    assert TOKEN not in str(refused.value)
    assert (saved / "README.md").is_file() and isinstance(refused.value, TextEnvsError)


def test_a_storage_that_refuses_is_said(hub: Any, saved: Path) -> None:
    hub.refuse_storage = True
    with pytest.raises(PushError, match=r"broken off: .*model.safetensors.*403"):
        publish(saved, CARD, push_to_hub="me/name")


def test_offline_is_said(hub: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PushError, match="not pushed: HF_HUB_OFFLINE is set; unset it"):
        publish(saved, CARD, push_to_hub="me/name")
    assert hub.requests == [] and (saved / "README.md").is_file()


def test_a_missing_token_is_said(hub: Any, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PushError, match="no token is known; set HF_TOKEN"):
        publish(saved, CARD, push_to_hub="me/name")
    assert hub.requests == []


def test_a_hub_that_does_not_answer_is_said(
    hub: Any, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # the discard port: none listens
    with pytest.raises(PushError, match="not reached"):
        publish(saved, CARD, push_to_hub="me/name")


@pytest.mark.parametrize("name", ["name", "a/b/c", "me/na me", "", "../name"])
def test_a_repository_is_user_and_name(name: str) -> None:
    with pytest.raises(ConfigError, match="user/name"):
        check_repository(name)
