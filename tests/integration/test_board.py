"""The board: what it answers, to whom, and what a browser makes of it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import requests
import uvicorn
from playwright.sync_api import expect
from tests.integration.conftest import WIDTHS, Tab, made_run

from factorlm.board.app import make_app
from factorlm.board.store import Board
from factorlm.cli import main
from factorlm.runs.store import claim

LINES = ".scatterlayer .trace"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A store of two arms with three seeds, a failed run and one that trains."""
    for arm, gain in (("ids", 0.0), ("text", 0.1)):
        for seed in (1, 2, 3):
            made_run(tmp_path, "warm", arm, seed, gain)
    made_run(tmp_path, "warm", "alone", 9, 0.0)
    made_run(tmp_path, "warm", "text", 4, 0.0, status="failed", metrics={}, history=[])
    made_run(tmp_path, "warm", "text", 5, 0.0, status="running", metrics={}, history=[])
    return tmp_path


@pytest.fixture
def address(root: Path) -> Iterator[str]:
    """A board over the store, in a thread."""
    server = uvicorn.Server(uvicorn.Config(make_app(root), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(address: str, width: int, tab: Callable[[int], Tab]) -> None:
    own = tab(width)
    page = own.page
    page.goto(address)
    page.wait_for_selector("#rows tr")
    assert page.inner_text("#count") == "9 of 9 runs"
    assert page.locator("#rows tr:has-text('failed')").count() == 1
    page.fill("#words", "done text seed2")
    assert page.inner_text("#count") == "1 of 9 runs"
    page.fill("#words", "done")
    page.locator("th[data-key=test] button").click()
    values = [float(text) for text in page.locator("#rows td:nth-child(7)").all_inner_texts()]
    assert len(values) == 7
    assert values == sorted(values)
    for place in range(3):
        page.locator("#rows input").nth(place).check()
    expect(page.locator(f"#curves {LINES}")).to_have_count(3)
    page.select_option("#keys", "train/loss")
    expect(page.locator("#curves-note")).to_have_text(re.compile("^train/loss by epoch"))
    page.locator("#rows button", has_text="ids").first.click()
    page.locator("#rows button", has_text="text").first.click()
    page.wait_for_selector(f"#comparison {LINES}")
    assert page.inner_text("#compare-note").startswith("text is better than ids: +0.")
    assert page.locator("#comparison .chart").count() == 2
    page.locator("#rows button", has_text="ids").first.click()
    page.locator("#rows button", has_text="alone").first.click()
    expect(page.locator("#compare-note")).to_contain_text("no finished runs with the same seed")
    assert not own.overflows()
    assert all(request.startswith((address, "blob:", "data:")) for request in own.requests)
    assert all("422" in error for error in own.errors)


@pytest.mark.slow
def test_it_is_live(address: str, root: Path, tab: Callable[[int], Tab]) -> None:
    folder = root / "demo/warm/text-seed5"
    page = tab(1440).page
    with claim(folder, wait=False):
        page.goto(address)
        page.wait_for_selector("#rows .running")
        page.fill("#words", "running")
        page.locator("#rows input").check()
        expect(page.locator("#curves-note")).to_contain_text("no epochs yet")
        rows = [json.dumps({"epoch": epoch, "step": epoch, "valid/ndcg@10": 0.1 * epoch}) for epoch in range(3)]
        (folder / "history.jsonl").write_text("\n".join(rows) + "\n")
        expect(page.locator("#curves .point")).to_have_count(3, timeout=15_000)
        (folder / "history.jsonl").write_text("\n".join([*rows, rows[-1].replace("2,", "3,", 1)]))
        expect(page.locator("#curves .point")).to_have_count(4, timeout=15_000)
    page.fill("#words", "killed")
    page.wait_for_selector("#rows .killed", timeout=15_000)


def test_only_this_machine_is_answered_and_nothing_outside_the_store(address: str) -> None:
    for host in ("evil.example", "127.0.0.1.evil.example", "[::1]"):
        assert requests.get(f"{address}/api/runs", headers={"Host": host}, timeout=10).status_code == 400
    answer = requests.get(f"{address}/api/runs", timeout=10)
    assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in answer.headers
    same = requests.get(f"{address}/api/runs", headers={"If-None-Match": answer.headers["ETag"]}, timeout=10)
    assert (same.status_code, same.content) == (304, b"")
    outside = requests.get(f"{address}/api/curves", params={"run": "../../etc"}, timeout=10)
    assert (outside.status_code, outside.json()) == (422, {"error": "../../etc is no run of this store"})
    assert requests.post(f"{address}/api/runs", timeout=10).status_code == 405
    assert requests.get(f"{address}/..%2f..%2fetc/passwd", timeout=10).status_code == 404


def test_ten_thousand_runs(tmp_path: Path, tab: Callable[[int], Tab], monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the store is the store's business; rows, filter and sort are the board's."""
    row = {"folder": "", "status": "done", "study": "demo", "arm": "ids", "started": "2026-01-01T00:00:00+00:00"}
    row |= {"metric": "ndcg@10", "test": 0.5}
    many = [row | {"folder": str(tmp_path / f"demo/run{number}"), "seed": number} for number in range(10_000)]
    monkeypatch.setattr("factorlm.board.store.read_runs", lambda root: (many, []))
    start = time.perf_counter()
    assert len(Board(tmp_path).rows()) == 10_000
    assert time.perf_counter() - start < 2
    server = uvicorn.Server(uvicorn.Config(make_app(tmp_path), port=0, log_level="error", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    page = tab(1440).page
    page.goto(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}")
    page.wait_for_selector("#rows tr")
    assert page.locator("#rows tr").count() == 200
    start = time.perf_counter()
    page.fill("#words", "seed9999")
    expect(page.locator("#count")).to_have_text("1 of 10,000 runs")
    page.fill("#words", "")
    page.locator("th[data-key=seed] button").click()
    expect(page.locator("#rows td:nth-child(5)").first).to_have_text("0")
    assert time.perf_counter() - start < 3
    page.click("#more")
    assert page.locator("#rows tr").count() == 400
    server.should_exit = True
    thread.join(10)


def started(root: Path, *arguments: str) -> tuple[subprocess.Popen, str]:
    command = [sys.executable, "-m", "factorlm", "board", f"run.root={root}", *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ)
    return process, process.stdout.readline()


def test_it_says_where_it_is_and_ends_with_ctrl_c(root: Path) -> None:
    process, line = started(root, "--port", "0")
    address = re.match(r"board (http://127\.0\.0\.1:\d+) shows .*; Ctrl-C ends it", line)
    assert address
    assert requests.get(address[1], timeout=10).status_code == 200
    again = subprocess.run(
        [sys.executable, "-m", "factorlm", "board", f"run.root={root}", f"port={address[1].rpartition(':')[2]}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (again.returncode, "Address already in use; name another, or port=0" in again.stderr) == (2, True)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.parametrize(
    ("argument", "message"),
    [("run.root=nowhere", "run.root=nowhere is no folder"), ("port=70000", "port=70000: it must be from 0")],
)
def test_mistakes(argument: str, message: str, root: Path, capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["board", f"run.root={root}", argument])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
