"""What a study shows in Python: tables, plotly figures, a view for notebooks, a copy for Optuna."""

from abc import ABC, abstractmethod
from importlib import import_module as lazy
from typing import TYPE_CHECKING, Any

from recycler.errors import NotFound
from recycler.front.results import Results
from recycler.markup import html_table
from recycler.nouns.plan import Plan

if TYPE_CHECKING:
    import optuna
    import pandas
    import plotly


class Views(ABC):
    """The views of a study; each reads the ledger anew."""

    plan: Plan

    @property
    @abstractmethod
    def results(self) -> Results:
        """The study as it is now, in one reading."""

    @property
    def name(self) -> str:
        """Name of the study in its ledger."""
        return self.plan.name

    def trials_dataframe(self) -> "pandas.DataFrame":
        """All trials as a table, one row each, with scores, errors and weights.

        The columns are those of `report.tables.trials_table`; scores and standard errors are in the
        unit of the objective, weights have no unit.
        """
        frame: pandas.DataFrame = lazy("recycler.report.tables").trials_table(self.results)
        return frame

    def plot_front(self) -> "plotly.graph_objects.Figure":
        """The front by pairs of objectives, with baselines and one standard error."""
        return lazy("recycler.report.figures").front_figure(self.results)

    def plot_parallel(self) -> "plotly.graph_objects.Figure":
        """Parallel coordinates of all objectives; held-out ones last, the better end at the top."""
        return lazy("recycler.report.figures").parallel_figure(self.results)

    def plot_weights(self) -> "plotly.graph_objects.Figure":
        """Heat map of the checkpoints' weights in the members of the front."""
        return lazy("recycler.report.weights").weights_figure(self.results)

    def plot_roles(self) -> "plotly.graph_objects.Figure":
        """Mean weight of each checkpoint in the front against its score alone, by objective."""
        return lazy("recycler.report.weights").roles_figure(self.results)

    def plot_hypervolume(self) -> "plotly.graph_objects.Figure":
        """Hypervolume on dev items against evaluations, as a multiple of that of the baselines."""
        return lazy("recycler.report.volume").trace_figure(self.results)

    def plot_differences(self) -> "plotly.graph_objects.Figure":
        """Forest plot of the pick against its rivals, each objective in its own unit.

        Raises:
            NotFound: nothing is decided yet.
        """
        decision = self.results.decision
        if decision is None or decision.verdict is None:
            raise NotFound(
                f"study {self.name!r} has no pick that is scored with its rivals yet.",
                hint="run the study first.",
            )
        return lazy("recycler.report.forest").forest_figure(decision.verdict)

    def to_optuna(self, storage: Any = None) -> "optuna.Study":
        """The study as an Optuna study, for its tools; a copy, and the ledger is not changed.

        Args:
            storage: URL of an Optuna storage, such as `sqlite:///optuna.db`, or a storage; None: in
                memory.

        Returns:
            A study of the same name: weights as parameters, scores on dev items as values in their
            own unit and direction, errors and scores on other splits as user attributes.

        Raises:
            Conflict: the storage has a study of that name.
        """
        made: optuna.Study = lazy("recycler.search.optuna_copy").copy_study(self.results, storage)
        return made

    def _repr_html_(self) -> str:
        """The study in a notebook: what it holds, then its front."""
        results = self.results
        counts = results.costs["counts"]
        front = results.front._repr_html_() if results.front.members else ""
        title = f"Study {self.name}: {results.status['status']}"
        asked = ", ".join(o.name for o in self.plan.objectives.searched)
        rows = [
            (self.plan.n, asked, self.plan.sampler, self.plan.evaluations, *counts.values()),
        ]
        head = ("checkpoints", "objectives", "sampler", "budget", *map(str, counts))
        return html_table(title, head, rows) + front
