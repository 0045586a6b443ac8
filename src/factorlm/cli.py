"""The command line: ``factorlm COMMAND [key=value ...]``."""

from __future__ import annotations

import errno
import gc
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

from factorlm.errors import TerminatedError, UserError, terminable

COMMANDS = {
    "prepare": "fetch a dataset, check it, split it; later commands reuse the result",
    "train": "train and evaluate one arm with one seed",
    "evaluate": "evaluate a finished run again from its checkpoint",
    "compare": "run a study's arms and seeds, or take finished runs, and compare them user by user",
    "power": "plan: how many users and seeds it takes to see an effect",
    "score": "referee: lists of any system (TREC, parquet, csv) under the same metrics and statistics",
    "audit": "examine a finished run for leakage, ties, order sensitivity and other ways to be wrong",
    "wandb-sweep": "print a sweep's definition for W&B, whose agents then choose the points",
    "probe": "ask whether a language model knows the catalogue, or what users liked, by heart",
    "check": "validate every config file, or one composition, against the real signatures",
    "runs": "list, filter, compare, follow, export, delete and import runs",
    "reproduce": "train a published study anew and hold each of its numbers against the record",
    "export": "pack a compared study for a paper's supplement",
    "report": "write a study's report: one HTML page, Markdown and LaTeX tables",
    "board": "watch runs in a browser on this machine: a list, learning curves, two arms compared",
    "sync": "upload W&B runs that were kept offline",
    "completion": "print the shell completion script for bash or zsh",
}
HYDRA = (  # long options that it knows
    "help", "hydra-help", "version", "cfg", "resolve", "package", "run", "multirun", "shell-completion", "info",
    "config-path", "config-name", "config-dir", "experimental-rerun",
)  # fmt: skip
# the key that a bare first argument is the value of; of a list, all that are not for another key
POSITIONAL = {
    "compare": "study",
    "evaluate": "study",
    "report": "study",
    "runs": "words",
    "reproduce": "study",
    "export": "study",
    "sync": "folder",
}
CONFIGS = {"prepare": "train", "train": "train", "wandb-sweep": "train", "probe": "train", "check": "train"}
HELP = """FactorLM: does the language model make this recommender better, by how much, at what cost?

usage: factorlm COMMAND [key=value ...]

commands
{commands}

examples
  factorlm train dataset=ml100k split=user_time seed=1
  factorlm train backbone=minilm dataset=ml100k split=cold_item seed=1
  factorlm train dataset=files dataset.interactions=clicks.csv dataset.columns.user=customer \\
                 dataset.columns.item=sku dataset.columns.timestamp=time
  factorlm compare study=ml100k-text-vs-id
  factorlm compare runs=[runs/a,runs/b]
  factorlm report ml100k-text-vs-id
  factorlm score --qrels truth.txt --run one.txt two.parquet
  factorlm audit run.dir=runs/a
  factorlm runs head=fm 'ndcg>0.1' --sort -ndcg
  factorlm reproduce experiments/ml100k-text-vs-id
  factorlm power runs=[runs/a,runs/b] effect=0.005
  factorlm train -m seed=1,2,3                       several runs, one after the other

`factorlm COMMAND --help` lists the config groups and keys of a command; `--cfg job` prints its whole config.
Exit status: 0 done, 2 a mistake in the input, 3 an audit failed or a number was not reproduced, 1 a bug of ours,
130 interrupted, 143 terminated.
Completion: eval "$(factorlm completion bash)"
"""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit with its status."""
    gc.set_threshold(20_000, 20, 20)  # imports leave no garbage: a sixth of the time until a first step
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with terminable():
            _dispatch(given)
        code = 0
    except UserError as error:
        print(f"factorlm: {error}", file=sys.stderr)
        code = error.status
    except KeyboardInterrupt:
        print("factorlm: interrupted; finished runs are kept, call again to continue", file=sys.stderr)
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        print(
            f"factorlm: the disk is full ({error.filename or 'no file named'}); free space and call again",
            file=sys.stderr,
        )
        code = 2
    except TerminatedError:
        print("factorlm: terminated; finished runs are kept, call again to continue", file=sys.stderr)
        code = 143
    sys.exit(code)


def _dispatch(given: list[str]) -> None:
    if not given or given[0] in ("-h", "--help", "help"):
        print(HELP.format(commands="\n".join(f"  {name:11s} {text}" for name, text in COMMANDS.items())), end="")
        return
    if given[0] in ("-V", "--version"):
        from factorlm import __version__

        print(f"factorlm {__version__}")
        return
    name = given[0]
    if name == "completion":
        from factorlm.commands.completion import main as complete

        complete(given[1:], list(COMMANDS), CONFIGS)
        return
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise UserError(f"{name}: no such command{hint}; there are {', '.join(COMMANDS)}")
    if name not in CONFIGS and ("--help" in given or "-h" in given):
        from factorlm.config.compose import conf_dir

        print(f"factorlm {name}: {COMMANDS[name]}\n\nkeys, set by --KEY VALUE or KEY=VALUE:\n")
        lines = (conf_dir() / f"{name}.yaml").read_text().splitlines()
        print("\n".join(line for line in lines if not line.startswith(("defaults:", "  - "))))
        return
    _run_hydra(name, given[1:])


def _overrides(schema: type, arguments: Sequence[str], positional: str | None = None) -> list[str]:
    """Write ``--key value``, ``--key=value`` and ``--flag`` as Hydra's ``key=value``, for the keys of a schema.

    A key that holds a list takes all values up to the next option or ``key=value``. Other options are Hydra's. What is
    for no key goes to the positional one: the first argument, or all to a list.

    Raises:
        UserError: an option is nobody's, or lacks its value.
    """
    names = [field.name for field in fields(schema)]
    kinds = {field.name: str(field.type) for field in fields(schema) if field.type != "RunConfig"}

    def more() -> bool:
        key, equals, _ = rest[0].partition("=") if rest else ("--", "", "")
        return not key.startswith("--") and not (equals and key.partition(".")[0] in names)

    rest, overrides, words = list(arguments), [], []
    gathers = kinds.get(positional or "", "").startswith("list")
    if positional and not gathers and rest and not rest[0].startswith("-") and "=" not in rest[0]:
        rest.insert(0, f"--{positional}")
    while rest:
        argument = rest.pop(0)
        key, equals, value = argument.removeprefix("--").partition("=")
        part = "." in key and key.partition(".")[0] in names
        if gathers and not argument.startswith("-") and not (equals and key.partition(".")[0] in names):
            words.append(_quoted(argument).replace("${", "\\${"))
            continue
        if kinds.get(key, "").startswith("list") and equals and not argument.startswith("--") and value[:1] not in "[$":
            overrides.append(f"{key}=[{','.join(_quoted(one) for one in value.split(','))}]")
            continue
        follows = bool(overrides) and overrides[-1].startswith("-")  # the value of one of Hydra's options
        if not argument.startswith(("-", "~")) and not equals and not follows:
            raise UserError(f"{argument}: every argument is KEY=VALUE or --KEY VALUE; see factorlm COMMAND --help")
        if not argument.startswith("--") or not (key in kinds or part):
            if argument.startswith("--") and key not in HYDRA:
                near = get_close_matches(key, kinds, n=1, cutoff=0.5)
                raise UserError(f"--{key}: no such option{f'; did you mean --{near[0]}?' if near else ''}")
            overrides.append(argument)
            continue
        kind = kinds.get(key, "str")
        if kind == "bool" and not equals:
            overrides.append(f"{key}=true")
            continue
        values = [value] if equals else []
        while not equals and more() and (kind.startswith("list") or not values):
            values.append(rest.pop(0))
        if not values:
            raise UserError(f"--{key} needs a value")
        if kind == "list[int]":
            values = [one for value in values for one in value.strip("[]").split(",")]
        quoted = [_quoted(one) for one in values]
        overrides.append(f"{key}=[{','.join(quoted)}]" if kind.startswith("list") else f"{key}={quoted[0]}")
    overrides += [f"{positional}=[{','.join(words)}]"] * bool(words)
    multirun = [argument for argument in overrides if argument in ("-m", "--multirun")]  # Hydra wants it at an end
    return multirun + [argument for argument in overrides if argument not in multirun]


def _quoted(value: str) -> str:
    """A value as Hydra's grammar takes it."""
    if re.fullmatch(r"[\w./~+-]+", value):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _run_hydra(name: str, arguments: list[str]) -> None:
    """Hand the arguments to Hydra, whose exceptions come back untranslated so that we can explain them."""
    os.environ["HYDRA_FULL_ERROR"] = "1"
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf import DictConfig
    from omegaconf.errors import OmegaConfBaseException

    from factorlm.config.compose import conf_dir, explain
    from factorlm.config.schema import SCHEMAS, register

    config_name = CONFIGS.get(name, name)
    register()
    overrides = _overrides(SCHEMAS[config_name], arguments, POSITIONAL.get(name))
    if name == "train" and any(override.startswith("hydra/sweeper=") for override in overrides):
        overrides = ["--multirun", *overrides]
    overrides = ["hydra.mode=RUN"] * (name == "wandb-sweep") + overrides  # it writes a sweep down and runs nothing

    mistakes: list[UserError] = []  # kept from Hydra, which would print a line of its own for each

    def task(config: DictConfig) -> object:
        if name == "train" and config.tracking:  # a tracker imports faster where little else is imported
            import_module(config.tracking["_target_"].rpartition(".")[0])
        try:
            return import_module(f"factorlm.commands.{name.replace('-', '_')}").main(config)
        except UserError as error:
            mistakes.append(error)
            return error  # the list is lost where a launcher runs this in another process

    saved, sys.argv = sys.argv, [f"factorlm {name}", *overrides]
    try:
        GlobalHydra.instance().clear()
        hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(task)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain(error, config_name)) from error
    except SystemExit as stop:
        if isinstance(stop.__context__, BrokenPipeError):
            raise stop.__context__ from None
        if stop.code:
            raise UserError("see the usage above") from None
    finally:
        sys.argv = saved
    if mistakes:
        raise mistakes[0]
