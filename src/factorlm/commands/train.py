"""``factorlm train``: one arm, one seed, one run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig, OmegaConf
from rich.console import Console

from factorlm.commands.execute import execute, processes_of, starts
from factorlm.commands.together import train_together
from factorlm.config.build import make, make_data
from factorlm.config.check import check_config
from factorlm.errors import PrunedError, TerminatedError, UserError, terminable
from factorlm.reporting.metrics import metric_lines
from factorlm.runs.identity import code_version, digest
from factorlm.runs.record import Record, read_record, versions
from factorlm.runs.store import HISTORY, STATE, claim, clear

# what a config holds that cannot change a result
IRRELEVANT = ("study", "arm", "run", "cache", "tracking", "plugins", "save_every", "trial")
log = Console(stderr=True)


def run_key(config: DictConfig) -> str:
    """What determines the result of a run: its config, the content of its data, the code and the run it starts from."""
    content = OmegaConf.to_container(config, resolve=True)
    assert isinstance(content, dict)
    relevant = {str(key): value for key, value in content.items() if key not in IRRELEVANT}
    source, _ = make_data(config)
    backbone = make(config.backbone).identity() if config.backbone is not None else None
    for key, folders in starts(config).items():  # whatever their paths
        name, _, inner = key.partition(".")
        keys = [(read_record(folder) or {}).get("key") for folder in folders]
        start = keys if isinstance(OmegaConf.select(config, key), ListConfig) else keys[0]
        relevant[name] = relevant[name] | {inner: start} if inner else start
    return digest([relevant, source.identity(), backbone, code_version(list(config.plugins))])


def run_folder(config: DictConfig) -> Path:
    """``run.dir``, or a folder under ``run.root`` named by study, arm, seed and key."""
    if config.run.dir:
        return Path(str(config.run.dir)).expanduser()
    name = f"{config.arm}-seed{config.seed}-{run_key(config)}"
    return Path(str(config.run.root)).expanduser() / str(config.study) / name


def finished(config: DictConfig) -> Path | None:
    """The folder of the finished run of this config, or None."""
    folder = run_folder(config)
    record = read_record(folder) or {}
    return folder if record.get("status") == "done" and record.get("key") == run_key(config) else None


def train(config: DictConfig, *, progress: bool = True, wait: bool = False) -> Path:
    """Train and evaluate one run; return its folder. A finished run of the same key is reused.

    Args:
        config: composed train config.
        progress: whether to show a progress bar.
        wait: for another process that trains the same run, instead of refusing.

    Raises:
        UserError: the config or the data is wrong, or the folder holds another run.
    """
    started = time.perf_counter()
    check_config(config)
    torch.set_num_threads(config.threads)
    key, folder = run_key(config), run_folder(config)
    for start_key, folders in starts(config).items():
        for start in folders:
            if (read_record(start) or {}).get("status") != "done":
                raise UserError(f"{start_key}={start} is not the folder of a finished run: train that run first")
    if config.init_from:
        _check_adapter(config)
    with claim(folder, wait):
        found = read_record(folder)
        if found is not None and found["status"] == "done":
            if found.get("key") != key:
                raise UserError(f"run.dir={folder} holds another finished run: name an empty folder")
            log.print(f"already finished, reused: {folder}", highlight=False)
            return folder
        goes_on = _goes_on(folder, found or {}, key)
        clear(folder, keep=("checkpoint", HISTORY, "wandb") if goes_on else ())
        names = {"key": key, "study": config.study, "arm": config.arm, "seed": config.seed}
        code = code_version(list(config.plugins))
        record = Record(folder, {**names, "init_from": config.init_from, "code": code}, found if goes_on else None)
        OmegaConf.save(config, folder / "config.yaml", resolve=True)
        try:
            with terminable():
                processes = processes_of(config)
                if processes == 1:
                    execute(config, folder, record.update, started, progress)
                    record.finish("done")
                else:
                    record.finish("done", **train_together(config, folder, processes, started, progress))
        except (KeyboardInterrupt, TerminatedError):
            record.finish("cancelled")
            raise
        except PrunedError as error:
            record.finish("pruned", error=str(error))
            raise
        except BaseException as error:
            record.finish("failed", error=f"{type(error).__name__}: {error}")
            raise
        (folder / "checkpoint" / STATE).unlink(missing_ok=True)
    return folder


def _goes_on(folder: Path, found: dict[str, Any], key: str) -> bool:
    """Whether a folder holds the state of an interrupted training that this process would repeat to the last bit."""
    same = found.get("key") == key and found.get("versions") == versions()
    return same and (folder / "checkpoint" / STATE).exists()


def _check_adapter(config: DictConfig) -> None:
    """Refuse a run to start from whose adapter this run lacks or has otherwise."""
    start = Path(config.init_from)
    adapter = OmegaConf.select(OmegaConf.load(start / "config.yaml"), "adapter")
    if adapter is not None and _weights_of(adapter) != _weights_of(config.adapter):
        kind = adapter["_target_"].rpartition(".")[2]
        raise UserError(f"init_from={start} has a trained {kind}: this run needs the adapter of its config.yaml")


def _weights_of(adapter: DictConfig | None) -> dict[str, Any]:
    """What of an adapter's config determines its weights."""
    return {str(key): value for key, value in (adapter or {}).items() if key != "gradient_checkpointing"}


def main(config: DictConfig) -> float:
    """Train, print the test metrics and, last, the run folder; return the validation metric for sweepers."""
    basic = HydraConfig.get().launcher._target_.endswith(".BasicLauncher")  # others run several at once
    folder = train(config, progress=basic, wait=not basic)
    record = read_record(folder)
    assert record is not None
    split = record["split"]
    lost = sum(split["dropped"]["test"].values())
    later = f"{split['leakage']['after_test']:.1%} of training rows are later than a test row on average"
    print(f"test: {split['rows']['test']:,} rows of {split['users']['test']:,} users, {lost:,} left out; {later}")
    values = {name: value for name, value in record["metrics"].items() if name.startswith("test/")}
    print("\n".join(metric_lines({name.removeprefix("test/"): value for name, value in values.items()})))
    print(folder)
    return float(record["metrics"][record["protocol"]["selection"].removeprefix("max ")])
