"""The report of a study: what it says, and what a browser makes of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.integration.conftest import WIDTHS, Tab, made_run

from factorlm.cli import main
from factorlm.comparison.runs import compare_runs
from factorlm.reporting.study_files import write_study
from factorlm.runs.record import write_json

ARMS = {"ids": 0.0, "side & <b>id</b>": 0.02, "text_fm": 0.1, "lora_fm": 0.12, "worse": -0.1, "same": 0.0}
CHARTS = 5  # of a protocol: forest, slices, cost, curves, users


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a comparison of 6 arms with 5 seeds under two protocols; to be copied."""
    root = tmp_path_factory.mktemp("store")
    protocols = {}
    for protocol in ("warm", "cold"):
        arms = {
            arm: [made_run(root, protocol, f"arm{place}", seed, gain) for seed in range(1, 6)]
            for place, (arm, gain) in enumerate(ARMS.items())
        }
        protocols[protocol] = compare_runs(arms, "ndcg@10", 200, 0.01)
    answer = {"study": "demo", "question": "Does text help <at all> & why?", "overrides": [], "protocols": protocols}
    write_json(root / "demo" / "comparison.json", answer)
    return root


@pytest.fixture
def study(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    shutil.copytree(finished, tmp_path / "runs")
    return tmp_path / "runs" / "demo"


@pytest.fixture
def answer(study: Path) -> dict[str, Any]:
    return json.loads((study / "comparison.json").read_text())


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A sweep in which the learning rate decides, with a failed and a pruned trial; not yet in the store."""
    monkeypatch.chdir(tmp_path)
    trials = [
        {
            "number": number, "state": "complete",
            "params": {
                "optimizer.lr": 10 ** -(number % 5),
                "objective": ("bpr", "bce")[number // 5 % 2],
                "factors": 8 * number,
            },
            "values": [0.1 - 0.01 * (number % 5)], "seconds": 2.0, "folder": f"runs/x{number}", "error": None,
        }
        for number in range(20)
    ]  # fmt: skip
    trials[3] |= {"state": "failed", "values": None, "seconds": None, "error": "the loss is not finite <at step 3>"}
    trials[8] |= {"state": "pruned", "values": None}
    space = {"optimizer.lr": "choice(1,0.1)", "objective": "choice(bpr,bce)", "factors": "range(0,160)"}
    return {
        "study": "fm", "sampler": "tpe", "seed": 1, "directions": ["maximize"], "metric": "valid/ndcg@10",
        "space": space, "trials": trials,
    }  # fmt: skip


def call(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["report", *arguments])
    return int(stop.value.code or 0)


def opened(tab: Tab, path: Path) -> None:
    tab.page.goto(path.as_uri())
    tab.page.wait_for_selector("body[data-drawn]", timeout=60_000)


def test_it_is_small_and_quick_and_says_the_answer(study: Path, capsys: pytest.CaptureFixture) -> None:
    start = time.perf_counter()
    assert call("demo") == 0
    assert time.perf_counter() - start < 10
    said = capsys.readouterr().out
    assert "warm: side & <b>id</b>, text_fm and lora_fm are better than ids; worse is worse than ids" in said
    assert said.splitlines()[-3:] == [f"report runs/demo/report.{kind}" for kind in ("html", "md", "tex")]
    html = (study / "report.html").read_text()
    assert len(html) < 1_000_000
    assert "Does text help &lt;at all&gt; &amp; why?" in html
    assert "<b>id</b>" not in html
    assert "Rows the split dropped (test): cold user 7." in html
    assert re.findall(r'src="(.+?)"', html) == [f"../assets/{next((study.parent / 'assets').iterdir()).name}"]
    assert str(study) not in html


@pytest.mark.parametrize("width", WIDTHS)
def test_in_a_browser(study: Path, width: int, tab: Callable[[int], Tab]) -> None:
    assert call("demo") == 0
    own = tab(width)
    opened(own, study / "report.html")
    page = own.page
    assert page.locator(".chart svg.main-svg .trace").count() >= 2 * (CHARTS + 4 * 5)
    assert page.locator("figure").count() == 2 * CHARTS
    assert all(page.locator("figure").nth(place).locator(".trace").count() for place in range(2 * CHARTS))
    forest = page.locator("figure").first
    assert forest.locator(".trace").count() == 5
    bars = "table:has-text('up/down') tbody tr:visible"
    assert page.locator(bars).count() == 10
    page.get_by_label("text_fm", exact=True).uncheck()
    expect(forest.locator(".trace")).to_have_count(4)
    assert page.locator(bars).count() == 8
    slices = page.locator("figure").nth(1)
    expect(slices.locator(".ytick", has_text="activity=low")).to_have_count(1)
    page.get_by_label("activity=low", exact=True).uncheck()
    expect(slices.locator(".ytick", has_text="activity=low")).to_have_count(0)
    page.get_by_text("All slices").first.click()
    rows = page.locator("tr[data-slice]:visible")
    assert rows.count() > 0
    assert page.locator("tr[data-slice='activity=low']:visible").count() == 0
    page.get_by_role("button", name="Show all").click()
    expect(forest.locator(".trace")).to_have_count(5)
    heading = page.locator("th:has(button:text-is('diff'))").first
    heading.locator("button").focus()
    page.keyboard.press("Enter")
    column = [
        row.split("\t")[1] for row in page.locator("table:has-text('up/down') tbody").first.inner_text().splitlines()
    ]
    assert heading.get_attribute("aria-sort") == "ascending"
    assert [float(value) for value in column] == sorted(float(value) for value in column)
    assert not own.overflows()
    assert not own.errors
    assert {request.partition(":")[0] for request in own.requests} == {"file"}


def test_printed_it_keeps_to_the_paper(study: Path, tab: Callable[[int], Tab]) -> None:
    assert call("demo") == 0
    own = tab(1440)
    opened(own, study / "report.html")
    own.page.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widths = own.page.evaluate(
        "[...document.querySelectorAll('.main-svg')].map(svg => svg.getBoundingClientRect().width)"
    )
    assert max(widths) < 700
    assert own.page.evaluate("[...document.querySelectorAll('details')].every(details => details.open)")
    assert own.page.pdf(format="A4").startswith(b"%PDF")


def test_tables_for_a_paper(study: Path) -> None:
    assert call("demo") == 0
    latex = (study / "report.tex").read_text()
    assert latex.count(r"\begin{table}") == latex.count(r"\end{table}") == latex.count(r"\toprule") == 6
    row = next(line for line in latex.splitlines() if line.startswith("text\\_fm"))
    assert re.fullmatch(r"text\\_fm & 0\.\d{4}\$\^\{\*\}\$ \$\\pm\$0\.\d{4} & 0\.\d{4}\$\^\{\*\}\$ .* \\\\", row)
    assert re.search(r"text\\_fm & \+\.\d{4} & \[\+\.\d{4}, \+\.\d{4}\] & ", latex)
    assert r"side \& $<$b$>$id$<$/b$>$" in latex
    unescaped = [line for line in latex.splitlines() if re.search(r"(?<!\\)[%#_]", line) and "label" not in line]
    assert unescaped == [latex.splitlines()[0]]
    markdown = (study / "report.md").read_text()
    assert re.search(r"\| text_fm \| 0\.\d{4}\* ±0\.\d{4} \|", markdown)
    assert re.search(r"\| same \| 0\.\d{4} ±0\.\d{4} \|", markdown)


def test_what_needs_run_folders_is_said(study: Path) -> None:
    (study / "warm/arm3-seed2/per_user.parquet").unlink()
    assert call("demo") == 0
    warm, cold = (study / "report.html").read_text().split('<h2 id="cold">')
    assert warm.count("This panel needs the run folders") == 2
    assert "This panel needs the run folders" not in cold


def test_a_committed_study_without_runs(study: Path, answer: dict[str, Any], tmp_path: Path, tab: Callable) -> None:
    (study / "comparison.json").unlink()
    committed = tmp_path / "experiments" / "old"
    (committed / "results").mkdir(parents=True)
    arms = "{" + ", ".join(f"'{arm}': []" for arm in ARMS) + "}"
    (committed / "study.yaml").write_text(
        f"question: Why?\nmetric: ndcg@10\nsmallest_effect: 0.01\nbaseline: ids\nseeds: [1]\nprotocols: {{warm: []}}\n"
        f"shared: []\narms: {arms}\n"
    )
    content = json.loads(json.dumps(answer["protocols"]["warm"]))
    for arm in content["arms"].values():
        del arm["runs"]
    (committed / "results" / "warm.json").write_text(json.dumps({**content, "runs": [{"versions": {"torch": "2.13"}}]}))
    assert call("old") == 0
    html = (tmp_path / "runs/old/report.html").read_text()
    assert html.count("This panel needs the run folders") == 2
    assert "torch 2.13" in html
    own = tab(390)
    opened(own, tmp_path / "runs/old/report.html")
    assert own.page.locator("figure").count() == CHARTS - 2
    assert not own.errors
    assert not own.overflows()


def test_a_forced_comparison_says_so_in_every_title(study: Path, answer: dict[str, Any]) -> None:
    for comparison in answer["protocols"].values():
        comparison |= {"not_comparable": ["split is bb and cc"], "left_out": 3, "dropped": {"mrr@10": "why <not>"}}
    write_study(answer, study)
    html = (study / "report.html").read_text()
    assert html.count('<h2 id="warm-not-comparable-other-split">warm (NOT COMPARABLE: other split)</h2>') == 1
    assert "3 users are left out" in html
    assert "mrr@10 is dropped: why &lt;not&gt;" in html
    assert (study / "report.tex").read_text().count("NOT COMPARABLE: other split.") == 6


def test_a_sweep(
    sweep: dict[str, Any], tmp_path: Path, tab: Callable[[int], Tab], capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "runs" / "fm").mkdir(parents=True)
    write_json(tmp_path / "runs/fm/sweep.json", sweep)
    assert call("fm") == 0
    assert (
        "Sweep: 20 trials: 18 complete, 1 failed, 1 pruned; the best trial is 0 with 0.1000" in capsys.readouterr().out
    )
    own = tab(390)
    opened(own, tmp_path / "runs/fm/report.html")
    shares, lines = own.page.locator("figure").first, own.page.locator("figure").last
    assert shares.locator(".bars .point").count() == 3
    first = shares.locator(".chart").get_attribute("aria-label").partition("trials). ")[2]
    assert first.startswith("optimizer.lr ")
    assert lines.locator(".trace").count() == 18
    assert "Trial 3: the loss is not finite <at step 3>" in own.page.inner_text("main")
    assert own.page.locator("tbody tr").count() == 20
    assert not own.errors
    assert not own.overflows()


def test_a_sweep_of_too_few_trials_has_no_importance(sweep: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "runs" / "fm").mkdir(parents=True)
    write_json(tmp_path / "runs/fm/sweep.json", sweep | {"trials": sweep["trials"][:3]})
    assert call("fm") == 0
    assert "Too few trials" in (tmp_path / "runs/fm/report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name a study: factorlm report STUDY; there are demo"),
        (["dmo"], "no sweep.json beside it and no experiments/dmo/results; did you mean 'demo'?"),
        (["demo", "wandb=true", "tracking=none"], "wandb=true needs a compared study and tracking=wandb"),
        (["demo", "wandb=true"], "No API key configured"),
    ],
)  # fmt: skip
def test_mistakes(study: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture) -> None:
    assert call(*arguments) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith("factorlm: ")
    assert message in last


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "comparison.json is not JSON"),
        ('{"metric": 1}', "comparison.json has no study, question, protocols"),
        ("[]", "has no"),
        ('{"study": "demo", "question": "?", "protocols": ["random"]}', "has no protocols"),
        (
            '{"study": "demo", "question": "?", "protocols": {"random": {"metric": "auc"}}}',
            "has no baseline, margin, arms",
        ),
    ],
)
def test_broken_comparisons(study: Path, content: str, message: str, capsys: pytest.CaptureFixture) -> None:
    (study / "comparison.json").write_text(content)
    assert call("demo") == 2
    assert message in capsys.readouterr().err


class Server(BaseHTTPRequestHandler):
    """As much of W&B's GraphQL as saving a report and a workspace asks."""

    saved: list[dict[str, Any]]

    def log_message(self, *_: object) -> None:
        pass

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"]))).get("variables") or {}
        project = {"id": "p", "internalId": "UHJvamVjdDox", "name": "factorlm", "entityName": "me"}
        node = {**project, "createdAt": "2026-01-01T00:00:00", "isBenchmark": False, "user": None}
        page = {"endCursor": None, "hasNextPage": False}
        data = {
            "viewer": {"id": "u", "username": "me", "entity": "me", "email": "", "flags": "{}", "teams": {"edges": []}},
            "project": project,
            "models": {"edges": [{"node": node, "cursor": ""}], "pageInfo": page},
        }
        if "spec" in asked:
            self.saved.append(asked)
            dates = {"createdAt": "2026-01-01T00:00:00", "updatedAt": "2026-01-01T00:00:00"}
            user = {"id": "u", "name": "me", "username": "me", "userInfo": None}
            view = {**asked, "id": "Vmlldzox", **dates, "project": project, "previewUrl": None, "user": user}
            data["upsertView"] = {"view": view, "inserted": True}
        answer = json.dumps({"data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    Server.saved = []
    running = ThreadingHTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{running.server_port}")
    monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
    yield Server.saved
    running.shutdown()
    running.server_close()


def test_the_same_as_a_report_of_wandb(
    study: Path, server: list[dict[str, Any]], capsys: pytest.CaptureFixture
) -> None:
    assert call("demo", "wandb=true") == 0
    report, workspace = server
    assert (report["displayName"], report["entityName"], report["type"]) == ("demo", "me", "runs")
    blocks = json.loads(report["spec"])["blocks"]
    texts = [block["content"] for block in blocks if block["type"] == "markdown-block"]
    assert texts[0] == "Does text help <at all> & why?"
    assert any("* text_fm is better than ids: +0." in text for text in texts)
    assert any(text.startswith("| arm | ndcg@10 |") for text in texts)
    runs = [grid["metadata"]["runSets"][0] for grid in blocks if grid["type"] == "panel-grid"]
    assert [own["filters"]["filters"][0]["value"] for own in runs] == ["demo/warm", "demo/cold"]
    assert "valid/ndcg@10" in workspace["spec"]
    assert len(re.findall(r"^report http://127.0.0.1:", capsys.readouterr().out, re.MULTILINE)) == 2
    assert not [path for path in study.parent.rglob("*") if path.is_file() and b"a" * 40 in path.read_bytes()]
    assert os.environ["WANDB_API_KEY"]
