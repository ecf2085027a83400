"""The samplers by name, and the next proposal of a study as a pure function of its ledger."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from optuna.samplers import BaseSampler

from recycler.errors import InvalidConfig, StudyFailed
from recycler.front import baselines, pareto
from recycler.front.expectation import expected, predicted
from recycler.front.front import floor_gains, front_rows
from recycler.front.stages import exhausted, spent
from recycler.nouns.objectives import Array
from recycler.nouns.plan import Plan
from recycler.nouns.recipe import Recipe
from recycler.nouns.trial import Kind, Proposal, State, Trial
from recycler.protocols import Problem, SamplerFactory
from recycler.registry import resolve
from recycler.search import warm
from recycler.search.optuna_box import Mirror, ask, problem_of
from recycler.search.simplex import SamplerSettings
from recycler.settings import checked

SAMPLERS = {
    "auto": "recycler.search.samplers:auto",
    "surrogate": "recycler.search.surrogate:Surrogate",
    "nehvi": "recycler.search.nehvi:Nehvi",
    "paper": "recycler.search.cmaes:Paper",
    "cmaes": "recycler.search.cmaes:Softmax",
    "nsga2": "recycler.search.optuna_box:Nsga2",
    "nsga3": "recycler.search.optuna_box:Nsga3",
    "tpe": "recycler.search.optuna_box:tpe",
    "gp": "recycler.search.optuna_box:gp",
    "dirichlet": "recycler.search.simplex:Dirichlet",
    "sobol": "recycler.search.simplex:SobolDraws",
}
_MANY = 2000  # most evaluations for which `auto` is the surrogate: its time grows with their cube
_DRAWS = 20  # attempts to get a new merge from the sampler before one is drawn at random


def chosen(problem: Problem) -> str:
    """Return the name of the sampler that `auto` stands for.

    The surrogate, unless the budget makes it too slow. Its lead over `dirichlet` at 50 evaluations,
    three seeds (bench/search_bench.py), in points of the pick's test average and % of test
    hypervolume (number of pools): n = 4 +0.0, +7 (2); n = 8 +0.0, +31 (1); n = 16 +0.9, +16 (10);
    n = 32 +0.3, +9 (2).
    """
    return "nsga2" if problem.evaluations > _MANY else "surrogate"


def auto(problem: Problem, seed: int) -> BaseSampler:
    """Make the sampler that `chosen` names."""
    factory: SamplerFactory = resolve("sampler", chosen(problem), SAMPLERS)
    return factory(problem, seed)


def checked_sampler(name: str, settings: Mapping[str, Any]) -> SamplerFactory:
    """Return the sampler of that name, after checking the settings against it.

    Raises:
        InvalidConfig: no such sampler, an unknown setting, or a value that the sampler refuses.
    """
    factory: SamplerFactory = resolve("sampler", name, SAMPLERS)
    model = getattr(factory, "Settings", SamplerSettings)
    checked(model, settings, f"search.settings (sampler {name})")
    return factory


class Proposer:
    """Decides what to evaluate next: baselines, greedy path, then the sampler, up to the budget."""

    def __init__(self, plan: Plan) -> None:
        """Resolve the sampler and check its settings before any work is done.

        Raises:
            InvalidConfig: see `checked_sampler`.
        """
        self.plan = plan
        self._factory = checked_sampler(plan.sampler, plan.settings)
        self._mirror = Mirror()
        self._most = plan.settings.get("max_nonzero") or plan.n
        if self._most == 1 and plan.n > 1 and not plan.points.ranges:
            raise InvalidConfig(
                "search.settings.max_nonzero is 1: merges of one checkpoint are the checkpoints.",
                hint="allow 2 or more; the single checkpoints are scored anyway.",
            )

    def next(self, trials: Sequence[Trial], reference: Sequence[float] | None) -> Proposal | None:
        """Return the next proposal, or None: the budget is spent, or a score must come first."""
        known = {trial.recipe.id for trial in trials}
        for proposal in baselines.proposals(self.plan, trials):
            if proposal.recipe.id not in known:
                return proposal
        if reference is None or self.plan.n < 2:
            return None
        left = self.plan.evaluations - spent(trials)
        trials = [trial for trial in trials if self.plan.sees(trial)]
        for proposal in warm.proposals(self.plan):
            paid = left > 0 or "copy" in proposal.notes
            if proposal.recipe.id not in known and paid and self._allows(proposal.recipe):
                return proposal
        if left <= 0:
            return None
        step = baselines.greedy_step(self.plan, trials) if self.plan.greedy else None
        if step and self._allows(step.recipe):  # otherwise the path ends
            return step
        for proposal in baselines.less_one(self.plan, trials) if self.plan.leave_one_out else ():
            if proposal.recipe.id not in known:
                return proposal
        if exhausted(self.plan, trials, reference) is not None:
            return None
        filling = left <= round(self.plan.fill * self.plan.evaluations)
        filled = self._filled(trials, known) if filling else None
        return filled or self._sampled(trials, reference, known)

    def references(self, trials: Sequence[Trial]) -> list[Trial]:
        """Return the scored baselines and the greedy soup, the rivals of the front."""
        return baselines.scored(self.plan, trials)

    def expected(self, trials: Sequence[Trial], reference: Sequence[float]) -> Mapping[int, Array]:
        """Trial number -> (m,) expected gains of each scored trial (see `front.expectation`)."""
        return expected(self.plan, trials, reference)

    def predicted(
        self, trials: Sequence[Trial], reference: Sequence[float], recipe: Recipe
    ) -> tuple[Array, Array] | None:
        """(m,) predicted gains of a merge not scored yet, and (m,) their standard deviations."""
        return predicted(self.plan, trials, reference, recipe)

    def reference(self, trials: Sequence[Trial]) -> Array | None:
        """(m,) hypervolume reference; None until the singles and the floors' baselines are scored.

        It lies a tenth of the range below the worst of the non-dominated singles, so that a single
        that is bad at everything does not dominate the volume. An objective with a floor has its
        reference at the floor or above: what lies below the floor adds no volume.

        Raises:
            StudyFailed: all singles failed, or a floor's baseline did.
        """
        if not baselines.singles_done(self.plan, trials):
            return None
        known = baselines.single_gains(self.plan, trials)
        if not known:
            failed = next((t for t in trials if t.failure), None)
            why = f"; {failed.name}: {failed.failure.message}" if failed and failed.failure else ""
            raise StudyFailed(
                f"every single checkpoint failed{why}",
                hint=f"`recycler show {self.plan.name} 0` shows its details; fix that first.",
            )
        gains = np.array(list(known.values()))
        best = gains[pareto.nondominated(gains)]
        corner = pareto.worst_corner(best if len(best) > 1 else gains)
        floors = floor_gains(trials, self.plan.objectives, "dev")
        if np.isnan(floors).any():
            lost = self.plan.objectives.searched[int(np.isnan(floors).argmax())]
            raise StudyFailed(
                f"objective {lost.name!r} has its floor at the baseline {lost.floor!r}, which could "
                "not be scored.",
                hint="give the floor as a number, in a study of another name.",
            )
        return None if np.isposinf(floors).any() else np.maximum(corner, floors)

    def _sampled(
        self, trials: Sequence[Trial], reference: Sequence[float], known: set[str]
    ) -> Proposal:
        problem = problem_of(self.plan, trials, reference)
        name = f"search {spent(trials)}"
        for attempt in range(_DRAWS):
            seed = derived_seed(self.plan.seed, len(trials), attempt)
            point, notes = ask(self._factory, problem, trials, seed, self._mirror)
            recipe = self.plan.merge_at(point)
            if recipe.id not in known:
                return Proposal(kind=Kind.SEARCH, name=name, recipe=recipe, notes=notes)
        return Proposal(kind=Kind.SEARCH, name=name, recipe=self._random(problem, len(trials)))

    def _filled(self, trials: Sequence[Trial], known: set[str]) -> Proposal | None:
        """Midpoint of the widest gap between neighbours on the dev front that is not tried yet."""
        objectives = self.plan.objectives
        scored = [t for t in trials if t.state == State.COMPLETE]
        front = front_rows(scored, objectives, "dev", floor_gains(trials, objectives, "dev"))
        scales = baselines.scales_of(self.plan, trials)
        gains = objectives.gains([t.means("dev") for t in front]) / scales
        space = self.plan.points
        points = np.array([space.point_of(t.recipe) for t in front])
        for one, other, _ in pareto.neighbours(gains):
            middle = space.sparsest((points[one] + points[other]) / 2, self._most)
            recipe = self.plan.merge_at(middle)
            if recipe.id not in known:
                name = f"fill {spent(trials)}"
                return Proposal(kind=Kind.SEARCH, name=name, recipe=recipe)
        return None

    def _random(self, problem: Problem, number: int) -> Recipe:
        rng = np.random.default_rng(derived_seed(self.plan.seed, number, _DRAWS))
        space = problem.space
        return self.plan.merge_at(space.sparsest(space.draw(rng, 1.0), self._most))

    def _allows(self, recipe: Recipe) -> bool:
        """Whether a merge has at most `max_nonzero` checkpoints."""
        return sum(item.weight != 0 for item in recipe.ingredients) <= self._most


def derived_seed(seed: int, number: int, attempt: int = 0) -> int:
    """Seed of one proposal, from the study's seed, the trial number and the attempt."""
    return int(np.random.SeedSequence([seed, number, attempt]).generate_state(1)[0])
