"""The page in headless Chromium, the network off: no error, no request, no sideways scroll."""

import functools
import http.server
import importlib
import json
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from textenvs.benchmark.report import write_report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
OUTSIDE = "http://textenvs.invalid/x.png"

pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="Chromium is not installed (apt-get install chromium)"
)


class Visit(NamedTuple):
    """What Chromium did with a page: its console, the requests it made, and its document."""

    console: list[str]
    requests: list[str]
    document: str


class Handler(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and says nothing."""

    def log_message(self, format: str, *args: Any) -> None:
        """Keep quiet."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; a page may fetch from there, and would be seen to."""
    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def visit(folder: Path, name: str, tmp_path: Path) -> Visit:
    """Open a page; every name but this machine's address fails to resolve."""
    assert CHROMIUM is not None
    log = tmp_path / "net.json"
    with served(folder) as origin:
        command = [
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
            f"--user-data-dir={tmp_path / 'profile'}",
            "--enable-logging=stderr",
            "--v=0",
            f"--log-net-log={log}",
            "--virtual-time-budget=2000",
            "--window-size=500,900",
            "--dump-dom",
            f"{origin}/{name}",
        ]
        environment = {**os.environ, "HOME": str(tmp_path)}
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=120, env=environment, errors="replace"
        )
        requests = requested(log.read_text(encoding="utf-8", errors="replace"), origin, name)
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert "<html" in done.stdout, done.stderr[-2000:]
    return Visit(console, requests, done.stdout)


def requested(log: str, origin: str, name: str) -> list[str]:
    """Return what the page itself asked for; Chromium's own errands have another initiator."""
    found = []
    for line in log.splitlines():
        try:
            parameters = json.loads(line.rstrip(",")).get("params", {})
        except (ValueError, AttributeError):
            continue
        if isinstance(parameters, dict) and "url" in parameters:
            own = str(parameters.get("initiator", "")).startswith(origin)
            if own and parameters["url"] != f"{origin}/{name}":
                found.append(str(parameters["url"]))
    return found


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report with a hostile answer."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        pages: Any = importlib.import_module("report_pages")
    folder: Path = pages.study_with_summary(
        tmp_path_factory.mktemp("browser") / "study", seeds=range(2), prompts=6
    )
    write_report(folder)
    return folder


def test_the_page_makes_no_request_and_no_error(report: Path, tmp_path: Path) -> None:
    seen = visit(report, "report.html", tmp_path)
    assert seen.console == []
    assert seen.requests == []
    assert "<img" not in seen.document and "onerror=alert" in seen.document  # as text


def test_a_page_that_fetches_is_seen_to(report: Path, tmp_path: Path) -> None:
    """The negative control: the same page with an image from outside, and no policy."""
    text = (report / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    control = tmp_path / "control"
    control.mkdir()
    (control / "bad.html").write_text(text + f'<img src="{OUTSIDE}">', encoding="utf-8")
    assert OUTSIDE in visit(control, "bad.html", tmp_path).requests


def test_the_policy_stops_what_a_text_might_smuggle_in(report: Path, tmp_path: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    bad = f'<img src="{OUTSIDE}"><script>document.title = "taken"</script>'
    control = tmp_path / "control"
    control.mkdir()
    (control / "bad.html").write_text(text.replace("</main>", bad + "</main>"), encoding="utf-8")
    seen = visit(control, "bad.html", tmp_path)
    assert seen.requests == []
    assert "<title>taken" not in seen.document
    assert any("Content Security Policy" in line for line in seen.console)


def test_a_phone_scrolls_the_page_downwards_only(report: Path, tmp_path: Path) -> None:
    """A script, which the page itself may not hold, measures it without its policy."""
    text = (report / "report.html").read_text(encoding="utf-8")
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    measure = (
        "<script>for (const d of document.querySelectorAll('details')) d.open = true;"
        "document.body.dataset.width = document.documentElement.scrollWidth + '/' + "
        "document.documentElement.clientWidth</script>"
    )
    control = tmp_path / "control"
    control.mkdir()
    (control / "page.html").write_text(text.replace("</body>", measure + "</body>"))
    found = re.search(r'data-width="(\d+)/(\d+)"', visit(control, "page.html", tmp_path).document)
    assert found is not None
    assert int(found[1]) <= int(found[2]) <= 500
