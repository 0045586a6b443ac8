"""A study on the W&B server: a Report and a workspace of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from factorlm.errors import UserError

if TYPE_CHECKING:
    from wandb_workspaces.reports.v2.interface import Report
    from wandb_workspaces.workspaces.interface import Workspace


def publish(study: OnlineStudy) -> list[str]:
    """Save Report and workspace on the server.

    Returns:
        Their addresses.

    Raises:
        UserError: wandb-workspaces is not installed, there is no API key, or the server does not take them.
    """
    import wandb

    if find_spec("wandb_workspaces") is None:
        raise UserError("wandb=true needs the package wandb-workspaces: pip install 'factorlm[workspaces]'")
    try:
        api = wandb.Api()
        study = replace(study, entity=study.entity or api.default_entity or "")
        report, workspace = study.report(), study.workspace()
        report.save()
        workspace.save()  # type: ignore[no-untyped-call]
        return [str(report.url), str(workspace.url)]
    except (wandb.Error, OSError) as error:
        raise UserError(f"wandb=true: W&B did not take the report ({error}); the files are written") from error


@dataclass(frozen=True)
class OnlineStudy:
    """What of a study goes to W&B.

    Args:
        project, entity: of W&B, where the runs are; an empty entity is the default of the account.
        name, question: of the study.
        metric: the primary one.
        sections: Markdown blocks by protocol, in order.
    """

    project: str
    entity: str
    name: str
    question: str
    metric: str
    sections: Mapping[str, Sequence[str]]

    def report(self) -> Report:
        """The Report: text and tables of each protocol, then the curves and values of its runs."""
        from wandb_workspaces.reports.v2 import interface as v2

        blocks: list[Any] = [v2.MarkdownBlock(text=self.question), v2.TableOfContents()]
        for protocol, texts in self.sections.items():
            runs = v2.Runset(
                project=self.project,
                entity=self.entity,
                name=protocol,
                filters=f"Config('study') = '{self.name}/{protocol}'",
                groupby=["config.arm"],
            )
            panels: list[Any] = [
                v2.LinePlot(x="epoch", y=[f"valid/{self.metric}"], title=f"valid/{self.metric} by epoch"),
                v2.BarPlot(metrics=[f"test/{self.metric}"], title=f"test/{self.metric}"),
            ]
            blocks += [
                v2.H1(text=protocol),
                *(v2.MarkdownBlock(text=text) for text in texts),
                v2.PanelGrid(runsets=[runs], panels=panels),
            ]
        return v2.Report(
            project=self.project, entity=self.entity, title=self.name, description=self.question, blocks=blocks
        )

    def workspace(self) -> Workspace:
        """The workspace: the study's runs by arm, with curves and test values."""
        from wandb_workspaces.expr import Config
        from wandb_workspaces.reports.v2 import interface as v2
        from wandb_workspaces.workspaces import interface as workspaces

        panels: list[Any] = [
            v2.LinePlot(x="epoch", y=[f"valid/{self.metric}"]),
            v2.LinePlot(x="epoch", y=["train/loss"]),
            v2.BarPlot(metrics=[f"test/{self.metric}"]),
        ]
        return workspaces.Workspace(
            project=self.project,
            entity=self.entity,
            name=self.name,
            sections=[workspaces.Section(name=self.name, panels=panels, is_open=True)],
            runset_settings=workspaces.RunsetSettings(
                filters=f"Metric('group') = '{self.name}'", groupby=[Config("arm")]
            ),
        )
