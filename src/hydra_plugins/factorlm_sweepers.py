"""The sweepers that Hydra finds here, the one place where it looks for plugins."""

from __future__ import annotations

import os
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.plugins import Plugins
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from factorlm.commands.processes import warm_up
from factorlm.errors import UserError

BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
EXTRAS = {"joblib": "launchers", "submitit": "launchers", "ray": "ray"}


class GridSweeper(BasicSweeper):
    """Hydra's grid, whose jobs may run elsewhere and bring back what a user did wrong as their result."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Find the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = _launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> Any:
        """Run every job, and then raise the first mistake.

        Raises:
            UserError: of a job, with the number of those that failed; or a launcher lost the process of one.
        """
        try:
            returns = super().sweep(arguments)
        except BrokenProcessPool:
            raise UserError(
                "the process of a run died, perhaps for want of memory: finished runs are kept, call again to continue "
                "with fewer at once (hydra.launcher.n_jobs)"
            ) from None
        jobs = [job for batch in returns for job in batch]
        failed = [job for job in jobs if isinstance(job.return_value, UserError)]
        if failed:
            same = set.intersection(*(set(job.overrides or []) for job in jobs)) if len(jobs) > 1 else set()
            name = " ".join(override for override in failed[0].overrides or [] if override not in same)
            raise UserError(f"{len(failed)} of {len(jobs)} runs failed, first {name}: {failed[0].return_value}")
        return returns


class OptunaSweeper(Sweeper):
    """Trials of a search space, one after the other or several at once; see `factorlm.commands.sweep`."""

    def __init__(self, **options: Any) -> None:
        self._options = options

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Find the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = _launcher(hydra_context, task_function, config)

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials."""
        assert self.hydra_context is not None
        assert self.config is not None
        basic = self.config.hydra.launcher._target_ == BASIC
        if basic:
            warm_up()
        from factorlm.commands.sweep import sweep  # takes seconds to import

        loader = self.hydra_context.config_loader
        sweep(self._options, self.config, loader, None if basic else self.launcher, arguments)


def _launcher(hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> Launcher:
    """The launcher of a config.

    Raises:
        UserError: its package is not installed.
    """
    plugins, target = Plugins.instance(), str(config.hydra.launcher._target_)
    known = {f"{found.__module__}.{found.__name__}" for found in plugins.discover(Launcher)}
    extra = next((extra for name, extra in EXTRAS.items() if f".hydra_{name}_launcher." in target), None)
    if target not in known and extra:
        name = config.hydra.runtime.choices["hydra/launcher"]
        raise UserError(f"hydra/launcher={name} needs more packages: pip install 'factorlm[{extra}]'")
    if extra == "ray" and config.hydra.launcher.ray.init.address is None:
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # Ray's word for: listen on the loopback only
    return plugins.instantiate_launcher(hydra_context, task_function, config)
