"""A W&B server on this machine, enough for the real client: runs, rows, files and artifacts, kept on disk.

It answers what wandb 0.31 asks, remembers everything in one JSON file so that it can be restarted on the same port, and
fails on demand. Rows are kept by ``_step``, as the real server keeps them; a step that arrives with two contents is
remembered as a conflict.
"""

from __future__ import annotations

import base64
import gzip
import json
import re
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ENTITY = "local"
VIEWER = {
    "id": "1", "entity": ENTITY, "username": "u", "email": "u@local", "flags": "{}", "admin": False, "deletedAt": None,
    "teams": {"edges": [{"node": {"name": ENTITY}}]}, "apiKeys": {"edges": []},
}  # fmt: skip
SERVER = {
    "cliVersionInfo": {}, "latestLocalVersionInfo": None, "features": [], "exposesExplicitRunProjectPathForRun": True,
    "onlyFinishedJobs": False, "queueInfo": None, "isReadOnly": False,
}  # fmt: skip


def _id(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Stub:
    """The server; ``url`` is its address and ``state`` what arrived.

    Args:
        folder: where it keeps its state.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, threading.Lock()
        self._folder.mkdir(parents=True, exist_ok=True)
        self.state: dict[str, Any] = {"runs": {}, "artifacts": {}, "files": {}}
        self.requests = 0
        self.fail_every, self.stall_every, self.stall_seconds = 0, 0, 0.0  # of requests that bring rows or files
        self.refuse = False  # whether every key is a wrong one
        self._port, self.up = 0, False
        self.save()
        self.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Begin to listen, with the state on disk."""
        self.up = True
        self.state = json.loads((self._folder / "state.json").read_text())
        self._server = _Server(("127.0.0.1", self._port), type("H", (_Handler,), {"stub": self}))
        self._port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        """Stop listening and forget everything that is not on disk."""
        with self._lock:
            self.up = False  # also for the connections that are open
        self._server.shutdown()
        self._server.server_close()
        self.state = {}

    def save(self) -> None:
        (self._folder / "state.json").write_text(json.dumps(self.state))

    def run(self, name: str | None = None) -> dict[str, Any]:
        """What arrived of a run; the only one where none is named."""
        runs = self.state["runs"]
        return runs[name or next(iter(runs))]

    def rows(self, name: str | None = None) -> list[dict[str, Any]]:
        """Rows of a run by step."""
        return [row for _, row in sorted(self.run(name)["rows"].items(), key=lambda item: int(item[0]))]

    def artifact(self, kind: str, run: str | None = None) -> dict[str, Any]:
        """The only committed artifact of a kind that a run made, with the bytes of its files."""
        (found,) = [one for one in self._committed(run) if one["kind"] == kind]
        return found | {"files": self._files(found["id"])}

    def tables(self, run: str | None = None) -> dict[str, Any]:
        """Tables that a run logged, by name."""
        found = [one for one in self._committed(run) if one["kind"] == "run_table"]
        prefix = f"run-{self.run(run)['name']}-"
        return {
            one["name"].removeprefix(prefix): json.loads(content)
            for one in found
            for content in self._files(one["id"]).values()
        }

    def _committed(self, run: str | None) -> list[dict[str, Any]]:
        name = self.run(run)["name"]
        return [one for one in self.state["artifacts"].values() if one["committed"] and one["run"] == name]

    def _files(self, artifact: str) -> dict[str, bytes]:
        prefix = f"/storage/artifact/{artifact}/"
        return {
            path.removeprefix(prefix): base64.b64decode(content)
            for path, content in self.state["files"].items()
            if path.startswith(prefix)
        }

    def answer(self, operation: str, query: str, given: dict[str, Any]) -> dict[str, Any]:
        """What a GraphQL request gets."""
        if "serverInfo" in query:
            return {"serverInfo": SERVER, "viewer": VIEWER}
        if "upsertBucket" in query:
            return self._upsert(given)
        if "viewer" in query:
            return {"viewer": VIEWER}
        if operation == "RunResumeStatus":
            run = self.state["runs"].get(given["name"])
            return {"model": {"id": "1", "name": given["project"], "bucket": _bucket(run) if run else None}}
        if "createRunFiles" in query:
            urls = [{"name": name, "uploadUrl": f"{self.url}/storage/{given['run']}/{name}"} for name in given["files"]]
            return {"createRunFiles": {"runID": _id(given["run"]), "uploadHeaders": [], "files": urls}}
        if re.search("Artifact", operation):
            return self._artifact(operation, given)
        return {name: {"fields": [], "inputFields": []} for name in re.findall(r"(\w+):\s*__type", query)}

    def _upsert(self, given: dict[str, Any]) -> dict[str, Any]:
        name = given.get("name") or given.get("id")
        new = name not in self.state["runs"]
        run = self.state["runs"].setdefault(
            name, {"name": name, "project": given.get("project"), "config": {}, "summary": {}, "state": "running",
                   "lines": {}, "rows": {}, "conflicts": [], "exit_code": None},
        )  # fmt: skip
        if given.get("config"):
            run["config"] = {key: value["value"] for key, value in json.loads(given["config"]).items()}
        for key in ("groupName", "jobType", "tags", "displayName", "commit"):
            if given.get(key) is not None:
                run[key] = given[key]
        return {"upsertBucket": {"bucket": _bucket(run), "inserted": new}}

    def _artifact(self, operation: str, given: dict[str, Any]) -> dict[str, Any]:
        given = given.get("input") or given
        if operation == "CreateArtifact":
            name = given["artifactCollectionName"]
            key = _id(f"{name}:{given['digest']}")
            known = {"id": key, "name": name, "kind": given["artifactTypeName"], "committed": False}
            known |= {"metadata": json.loads(given.get("metadata") or "{}"), "run": given.get("runName")}
            self.state["artifacts"].setdefault(key, known)
            state = "COMMITTED" if self.state["artifacts"][key]["committed"] else "PENDING"
            sequence = {"id": _id(name), "latestArtifact": None}
            return {"createArtifact": {"artifact": {"id": key, "state": state, "artifactSequence": sequence}}}
        if operation in ("CreateArtifactManifest", "UpdateArtifactManifest"):
            key = given.get("artifactID") or given["artifactManifestID"]
            file = {"id": "f", "name": given.get("name"), "displayName": given.get("name"), "uploadHeaders": []}
            file["uploadUrl"] = f"{self.url}/storage/manifest/{key}"
            name = operation[0].lower() + operation[1:]
            return {name: {"artifactManifest": {"id": _id(key), "file": file}}}
        if operation == "CreateArtifactFiles":
            nodes = [
                {"id": _id(file["name"]), "name": file["name"], "displayName": file["name"], "uploadHeaders": [],
                 "uploadUrl": f"{self.url}/storage/artifact/{file['artifactID']}/{file['name']}", "storagePath": "x",
                 "uploadMultipartUrls": None, "artifact": {"id": file["artifactID"]}}
                for file in given["artifactFiles"]
            ]  # fmt: skip
            return {"createArtifactFiles": {"files": {"edges": [{"node": node} for node in nodes]}}}
        if operation == "CommitArtifact":
            self.state["artifacts"][given["artifactID"]]["committed"] = True
            return {"commitArtifact": {"artifact": {"id": given["artifactID"], "digest": "d"}}}
        return {"project": {"artifactType": {"name": "x"}, "artifact": None}}

    def stream(self, name: str, content: dict[str, Any]) -> None:
        """Take lines of a run's files."""
        run = self.state["runs"][name]
        for file, part in (content.get("files") or {}).items():
            lines = run["lines"].setdefault(file, {})
            lines |= {str(part.get("offset", 0) + i): line for i, line in enumerate(part.get("content", []))}
            if file == "wandb-history.jsonl":
                for row in map(json.loads, part["content"]):
                    if run["rows"].setdefault(str(row["_step"]), row) != row:
                        run["conflicts"].append(row)
            if file == "wandb-summary.json" and part.get("content"):
                run["summary"] = json.loads(part["content"][-1])
        if content.get("complete"):
            run["exit_code"] = content.get("exitcode") or 0
            run["state"] = "failed" if run["exit_code"] else "finished"


def _bucket(run: dict[str, Any]) -> dict[str, Any]:
    lines = run["lines"]
    last = max(map(int, run["rows"]), default=-1)
    return {
        "__typename": "Run", "id": _id(run["name"]), "name": run["name"], "displayName": run.get("displayName"),
        "config": json.dumps({key: {"value": value} for key, value in run["config"].items()}), "sweepName": None,
        "group": run.get("groupName"), "jobType": run.get("jobType"), "tags": run.get("tags") or [], "notes": None,
        "description": None, "state": run["state"], "summaryMetrics": json.dumps(run["summary"]), "stopped": False,
        "createdAt": "2026-01-01T00:00:00Z", "heartbeatAt": "2026-01-01T00:00:00Z", "projectId": "1",
        "historyLineCount": len(lines.get("wandb-history.jsonl", {})), "systemMetrics": "{}", "internalId": "1",
        "eventsLineCount": len(lines.get("wandb-events.jsonl", {})), "logLineCount": 0, "readOnly": False,
        "historyTail": json.dumps([json.dumps(run["rows"][str(last)])] if last >= 0 else []), "eventsTail": "[]",
        "wandbConfig": json.dumps({"t": 1}), "user": {"name": "u", "username": "u"},
        "historyKeys": {"step": last, "keys": {}, "sets": [], "lastStep": last},
        "project": {"id": _id("p"), "name": run["project"], "entity": {"id": "1", "name": ENTITY}},
    }  # fmt: skip


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    stub: Stub

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = b""
            while size := int(self.rfile.readline().strip(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        else:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body

    def _send(self, content: Any, code: int = 200) -> None:
        body = json.dumps(content).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _hang_up(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def _broken(self) -> bool:
        """Fail or stall this request, as asked for."""
        stub = self.stub
        stub.requests += 1
        if stub.stall_every and stub.requests % stub.stall_every == 0:
            time.sleep(stub.stall_seconds)
        return bool(stub.fail_every) and stub.requests % stub.fail_every == 0

    def do_POST(self) -> None:
        body, stub = self._body(), self.stub
        if self.path.startswith("/sdk/otel"):
            return self._send({})
        if stub.refuse:
            return self._send({"errors": [{"message": "invalid API key"}]}, 401)
        if self._broken():
            return self._send({"error": "injected"}, 500)
        with stub._lock:
            if not stub.up:
                return self._hang_up()
            if self.path.startswith("/graphql"):
                asked = json.loads(body)
                found = re.search(r"(?:query|mutation)\s+(\w+)", asked["query"])
                operation = asked.get("operationName") or (found[1] if found else "")
                answer = {"data": stub.answer(operation, asked["query"], asked.get("variables") or {})}
            else:
                stub.stream(self.path.split("/")[4], json.loads(body))
                answer = {"limits": {}}
            stub.save()
        return self._send(answer)

    def do_PUT(self) -> None:
        body, stub = self._body(), self.stub
        if self._broken():
            return self._send({"error": "injected"}, 500)
        with stub._lock:
            if not stub.up:
                return self._hang_up()
            stub.state["files"][self.path] = base64.b64encode(body).decode()
            stub.save()
        return self._send({})

    def do_GET(self) -> None:
        self._send({})
