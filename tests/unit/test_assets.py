from __future__ import annotations

import errno
import hashlib
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests

from factorlm import assets
from factorlm.assets import Mirror, fetch
from factorlm.errors import UserError

CONTENT = bytes(range(256)) * 40
SHA = hashlib.sha256(CONTENT).hexdigest()


class Handler(BaseHTTPRequestHandler):
    """Serves CONTENT at /good/a.bin with ranges, something else at /bad/a.bin, and notes what was asked."""

    asked: list[str | None]

    def do_GET(self) -> None:
        self.server.asked.append(self.headers.get("Range"))  # type: ignore[attr-defined]
        if self.path not in ("/good/a.bin", "/bad/a.bin"):
            self.send_error(404)
            return
        body = CONTENT if "good" in self.path else b"something else"
        start = int((self.headers.get("Range") or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        self.wfile.write(body[start:])

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ThreadingHTTPServer]:
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    httpd.asked = []  # type: ignore[attr-defined]
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    real = requests.get
    base = f"http://127.0.0.1:{httpd.server_port}"
    monkeypatch.setattr(requests, "get", lambda url, **kw: real(url.replace("https://here", base), **kw))
    yield httpd
    httpd.shutdown()


def good(folder: str = "good") -> Mirror:
    return Mirror(f"https://here/{folder}", {"a.bin": SHA})


def test_downloads_verifies_and_caches(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    folder = fetch("thing", [good()], tmp_path)
    assert (folder / "a.bin").read_bytes() == CONTENT
    assert fetch("thing", [good()], tmp_path) == folder
    assert len(server.asked) == 1  # type: ignore[attr-defined]


def test_continues_half_a_file(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    folder = tmp_path / "assets" / good().identity
    folder.mkdir(parents=True)
    (folder / "a.bin.part").write_bytes(CONTENT[:1000])
    assert (fetch("thing", [good()], tmp_path) / "a.bin").read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]  # type: ignore[attr-defined]


def test_wrong_checksum_goes_to_the_next_mirror(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    assert (fetch("thing", [good("bad"), good()], tmp_path) / "a.bin").read_bytes() == CONTENT


def test_names_every_mirror_tried(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        fetch("thing", [good("bad"), good("missing"), Mirror(f"file://{tmp_path}/nowhere")], tmp_path)
    message = str(caught.value)
    assert "https://here/bad: a.bin has sha256" in message
    assert "https://here/missing: HTTPError: 404" in message
    assert "nowhere: no such folder" in message
    assert "\n" not in message


def test_a_file_changed_after_verification_is_fetched_again(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    folder = fetch("thing", [good()], tmp_path)
    (folder / "a.bin").write_bytes(CONTENT[:10])
    assert (fetch("thing", [good()], tmp_path) / "a.bin").read_bytes() == CONTENT


def test_two_at_once_download_once(server: ThreadingHTTPServer, tmp_path: Path) -> None:
    threads = [threading.Thread(target=partial(fetch, "thing", [good()], tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1  # type: ignore[attr-defined]


def test_disk_full_is_one_line(server: ThreadingHTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setitem(assets.FETCHERS, "https", full)
    with pytest.raises(UserError, match=r"the disk is full at .*FACTORLM_CACHE"):
        fetch("thing", [good()], tmp_path)


def test_takes_a_member_of_a_wheel_without_importing_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wheel = tmp_path / "links" / "boobytrap-1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("boobytrap/__init__.py", "raise SystemExit('imported')")
        archive.writestr("boobytrap/data/a.bin", CONTENT)
        archive.writestr("boobytrap-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: boobytrap\nVersion: 1.0\n")
        archive.writestr(
            "boobytrap-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("boobytrap-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
    mirror = Mirror("pypi://boobytrap==1.0!/boobytrap/data", {"a.bin": SHA})
    assert (fetch("thing", [mirror], tmp_path / "cache") / "a.bin").read_bytes() == CONTENT
    absent = Mirror("pypi://boobytrap==1.0!/boobytrap/other", {"a.bin": SHA})
    with pytest.raises(UserError, match="has no member boobytrap/other/a.bin"):
        fetch("thing", [absent], tmp_path / "other")
    unknown = Mirror("pypi://boobytrap==2.0!/boobytrap/data", {"a.bin": SHA})
    with pytest.raises(UserError, match="No matching distribution"):
        fetch("thing", [unknown], tmp_path / "other")


def test_takes_a_local_folder_in_place(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(CONTENT)
    assert fetch("thing", [Mirror(f"file://{tmp_path}", {"a.bin": SHA})], tmp_path / "cache") == tmp_path
    with pytest.raises(UserError, match="another sha256"):
        fetch("thing", [Mirror(f"file://{tmp_path}", {"a.bin": "0" * 64})], tmp_path / "cache")


def test_the_hub_without_network_is_one_line(tmp_path: Path) -> None:
    """In a process of its own: the hub library reads its offline switch when it is imported."""
    code = (
        "from pathlib import Path; from factorlm.assets import Mirror, fetch\n"
        f"fetch('thing', [Mirror('hf://owner/repo@{'a' * 40}', {{'a.bin': '{SHA}'}})], Path({str(tmp_path)!r}))"
    )
    environment = {"HF_HUB_OFFLINE": "1", "PATH": "", "HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert "UserError: thing could not be fetched. Mirrors tried: hf://owner/repo" in result.stderr.splitlines()[-1]


def test_unpinned_folders_are_refused() -> None:
    with pytest.raises(UserError, match="sha256"):
        Mirror("hf://owner/repo@main")
    with pytest.raises(UserError, match="scheme"):
        Mirror("ftp://host/folder", {"a": SHA})
