"""Contract of stores (see `recycler.protocols.Store`).

To test your own store, subclass the suite in a test file and provide a fixture:

    class TestMyStore(StoreContract):
        @pytest.fixture
        def store(self):
            return MyStore(...)

For a store that outlives its process, subclass `DurableStoreContract` and provide an address too.
"""

import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from importlib import import_module
from typing import Any

import pytest

from recycler.errors import Conflict, Mismatch, NotFound
from recycler.nouns.answers import Answers
from recycler.nouns.evaluation import Evaluation, Failure, Outcomes, Score
from recycler.nouns.objectives import Objective, Objectives
from recycler.nouns.plan import Plan
from recycler.nouns.trial import Proposal, State
from recycler.protocols import Store

# numbers that a text or single-precision column would change
AWKWARD = (0.1, 1 / 3, 5e-324, 2.2250738585072014e-308, 1.7976931348623157e308, -0.1, 1e23)


def plan(name: str = "study", **changes: Any) -> Plan:
    """Return a plan that uses every field, with numbers of many digits."""
    return replace(
        Plan(
            name=name,
            ingredients=(("a", "sha256:aa"), ("b", "sha256:bb"), ("ü", "sha256:cc")),
            objectives=Objectives(
                (
                    Objective("f", "value", "min", scale=0.1),
                    Objective("g", "acc"),
                    Objective("h", "acc", held_out=True, cluster="passage"),
                )
            ),
            settings={"sigma": 0.1, "tiny": 5e-324, "nested": {"list": [1, 2.5, None, True]}},
            evaluations=7,
            base=("base", "sha256:00"),
            merge_settings={"density": 1 / 3},
            items={"dev": 3, "select": 3, "test": 3, "seed": 1},
            evaluator={"kind": "function"},
        ),
        **changes,
    )


def proposal(weights: tuple[float, float, float] = (0.1, 0.2, 0.7), **changes: Any) -> Proposal:
    return Proposal(
        **{"kind": "search", "name": "search 0", "recipe": plan().recipe(weights)} | changes
    )


def evaluation(split: str = "dev", mean: float = 0.5, **changes: Any) -> Evaluation:
    return Evaluation(
        **{
            "split": split,
            "scores": {"f": Score(mean, 0.1, 3), "g": Score(1 / 3, 0.0, 3)},
            "outcomes": {"f": Outcomes((4, 2, 9), AWKWARD[:3], (0.1, 2.0, 3.0), (1, 1, 2))},
            "digest": "blake2b:11",
            "seconds": {"merge": 0.1, "evaluate": 1e-9},
        }
        | changes
    )


class StoreContract:
    """Subclass it and provide the fixture `store`, empty for each test."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    @pytest.fixture
    def study(self, store: Store) -> str:
        store.create_study(plan())
        return "study"

    def test_a_plan_comes_back_exactly_as_it_was_written(self, store: Store, study: str) -> None:
        assert store.plan(study) == plan()

    def test_a_study_is_created_once(self, store: Store, study: str) -> None:
        with pytest.raises(Conflict, match="study"):
            store.create_study(plan())

    def test_an_unknown_study_is_not_found_and_the_known_ones_are_named(
        self, store: Store, study: str
    ) -> None:
        for read in (store.plan, store.status, store.trials):
            with pytest.raises(NotFound, match="elsewhere") as caught:
                read("elsewhere")
            assert study in caught.value.hint

    def test_extending_changes_the_budget_and_nothing_else(self, store: Store, study: str) -> None:
        store.extend(study, 99)
        assert store.plan(study) == plan(evaluations=99)

    def test_studies_are_listed_oldest_first(self, store: Store) -> None:
        for name in ("z", "a", "m"):
            store.create_study(plan(name))
        assert [row["name"] for row in store.studies()] == ["z", "a", "m"]

    def test_status_and_message_are_kept(self, store: Store, study: str) -> None:
        assert store.status(study)["status"] == "new"
        store.set_status(study, "stopped", "why: ü")
        assert store.status(study)["status"] == "stopped"
        assert store.status(study)["message"] == "why: ü"

    def test_status_counts_the_trials_in_each_state(self, store: Store, study: str) -> None:
        for share in (0.1, 0.2, 0.3, 0.4):
            store.start(study, proposal((share, 1 - share, 0.0)))
        store.record(study, 0, evaluation())
        store.record(study, 1, evaluation())
        store.fail(study, 2, Failure("exception", "why"))
        status = store.status(study)
        assert (status["complete"], status["failed"], status["running"]) == (2, 1, 1)

    def test_the_reference_is_fixed_once_and_exactly(self, store: Store, study: str) -> None:
        assert store.status(study)["reference"] is None
        store.set_reference(study, [0.1, -5e-324])
        store.set_reference(study, [7.0, 7.0])
        assert store.status(study)["reference"] == [0.1, -5e-324]

    def test_trials_are_numbered_in_the_order_of_proposals(self, store: Store, study: str) -> None:
        started = [store.start(study, proposal((x, 1 - x, 0.0))) for x in (0.1, 0.2, 0.3)]
        assert [trial.number for trial in started] == [0, 1, 2]
        assert list(store.trials(study)) == started

    def test_a_proposal_comes_back_exactly(self, store: Store, study: str) -> None:
        sent = proposal(
            (0.1, 5e-324, 1 / 3),
            kind="single",
            name="single:ü",
            notes={"paper:ask": 3, "x": [0.1, 1e-320], "deep": {"k": None}},
        )
        store.start(study, sent)
        (trial,) = store.trials(study)
        assert (trial.kind, trial.name, trial.notes) == (sent.kind, sent.name, sent.notes)
        assert trial.recipe == sent.recipe
        assert trial.recipe.id == sent.recipe.id
        assert (trial.state, trial.attempts, trial.finished) == ("running", 1, None)

    def test_a_recipe_is_in_a_study_once(self, store: Store, study: str) -> None:
        store.start(study, proposal())
        with pytest.raises(Conflict, match="already has the merge"):
            store.start(study, proposal(name="search 1"))
        assert len(store.trials(study)) == 1

    def test_merges_asked_for_wait_in_order_until_they_are_trials(
        self, store: Store, study: str
    ) -> None:
        shares = (0.1, 0.2, 1 / 3)
        recipes = [proposal((x, 1 - x, 0.0)).recipe for x in shares]
        with store.hold(study):  # needs no lease
            asked = [store.ask_for(study, recipe) for recipe in (*recipes, recipes[0])]
        assert asked[0] == asked[3]
        assert {one.kind for one in asked} == {"try"}
        waiting = list(store.asked_for(study))
        assert waiting == asked[:3]
        assert [one.recipe.id for one in waiting] == [recipe.id for recipe in recipes]
        store.start(study, waiting[1])
        assert list(store.asked_for(study)) == [asked[0], asked[2]]
        store.create_study(plan("other"))
        assert list(store.asked_for("other")) == []
        with pytest.raises(NotFound, match="elsewhere"):
            store.ask_for("elsewhere", recipes[0])
        store.delete_study(study)
        store.create_study(plan())
        assert list(store.asked_for(study)) == []

    def test_two_studies_may_hold_the_same_recipe(self, store: Store, study: str) -> None:
        store.create_study(plan("other"))
        assert store.start(study, proposal()).number == 0
        assert store.start("other", proposal()).number == 0

    def test_scores_come_back_exactly_and_end_the_trial(self, store: Store, study: str) -> None:
        for i, mean in enumerate(AWKWARD):
            store.start(study, proposal((0.5, 0.5, 0.1 * (i + 1))))
            store.record(study, i, evaluation(mean=mean, scores={"f": Score(mean, mean, i)}))
        for i, (mean, trial) in enumerate(zip(AWKWARD, store.trials(study), strict=True)):
            score = trial.evaluations["dev"].scores["f"]
            assert (score.mean.hex(), score.stderr.hex()) == (mean.hex(), mean.hex())
            assert score.items == i
            assert trial.state == "complete"
            assert trial.digest == trial.evaluations["dev"].digest == "blake2b:11"
            assert trial.evaluations["dev"].seconds == {"merge": 0.1, "evaluate": 1e-9}

    def test_item_outcomes_come_back_exactly(self, store: Store, study: str) -> None:
        sent = {
            "f": Outcomes(tuple(range(7)), AWKWARD, (0.1,) * 7, (1, 1, 2, 2, 3, 3, 3)),
            "g": Outcomes((2**40, 5), (1.0, 0.0)),
        }
        scores = {"f": Score(0.0, 0.0, 7), "g": Score(0.5, 0.5, 2), "h": Score(1.0, 0.1, 0)}
        store.start(study, proposal())
        store.record(study, 0, evaluation(scores=scores, outcomes=sent))
        found = store.outcomes(study, 0, "dev")
        assert dict(found) == sent  # h has no items and is left out
        assert [v.hex() for v in found["f"].values] == [v.hex() for v in AWKWARD]
        assert dict(store.outcomes(study, 0, "test")) == {}

    def test_only_dev_scores_end_a_trial(self, store: Store, study: str) -> None:
        store.start(study, proposal())
        store.record(study, 0, evaluation("select"))
        assert store.trials(study)[0].state == "running"
        store.record(study, 0, evaluation("dev"))
        store.record(study, 0, evaluation("test"))
        (trial,) = store.trials(study)
        assert trial.state == "complete"
        assert sorted(trial.evaluations) == ["dev", "select", "test"]

    @pytest.mark.parametrize("split", ["dev", "select", "test"])
    def test_the_same_items_are_scored_once(self, store: Store, study: str, split: str) -> None:
        store.start(study, proposal())
        store.record(study, 0, evaluation("dev"))
        if split != "dev":
            store.record(study, 0, evaluation(split))
        before = store.trials(study)
        with pytest.raises(Conflict, match=split):
            store.record(study, 0, evaluation(split, mean=0.9))
        assert store.trials(study) == before

    def test_a_failure_comes_back_exactly(self, store: Store, study: str) -> None:
        why = Failure("out-of-memory", 'no "room"\x00 ü\n', "line 1\nline 2")
        store.start(study, proposal())
        store.fail(study, 0, why)
        (trial,) = store.trials(study)
        assert (trial.state, trial.failure) == ("failed", why)

    def test_scores_of_a_trial_that_never_began_are_refused(
        self, store: Store, study: str
    ) -> None:
        with pytest.raises(Exception):  # noqa: B017, PT011 -- which one is the store's own affair
            store.record(study, 7, evaluation())
        store.start(study, proposal((0.3, 0.7, 0.0)))
        assert [t.evaluations for t in store.trials(study)] == [{}]

    def test_a_trial_ends_once(self, store: Store, study: str) -> None:
        why = Failure("exception", "why")
        for share in (0.1, 0.2):
            store.start(study, proposal((share, 1 - share, 0.0)))
        store.record(study, 0, evaluation())
        store.fail(study, 1, why)
        before = store.trials(study)
        with pytest.raises(Conflict):
            store.fail(study, 0, why)
        with pytest.raises(Conflict):
            store.fail(study, 1, why)
        with pytest.raises(Conflict):
            store.record(study, 1, evaluation())
        assert store.trials(study) == before  # refused as a whole: no score slipped in

    def test_other_bytes_under_the_same_trial_are_a_mismatch(
        self, store: Store, study: str
    ) -> None:
        store.start(study, proposal())
        store.record(study, 0, evaluation())
        before = store.trials(study)
        with pytest.raises(Mismatch, match="blake2b:22"):
            store.record(study, 0, evaluation("test", digest="blake2b:22"))
        assert store.trials(study) == before

    def test_retries_are_counted(self, store: Store, study: str) -> None:
        for share in (0.1, 0.2):
            store.start(study, proposal((share, 1 - share, 0.0)))
        store.retry(study, 1)
        store.retry(study, 1)
        assert [trial.attempts for trial in store.trials(study)] == [1, 3]

    def test_events_of_a_study_increase_strictly(self, store: Store, study: str) -> None:
        store.create_study(plan("other"))
        happened = []
        for i, share in enumerate((0.1, 0.2, 0.3)):
            happened.append(store.start(study, proposal((share, 1 - share, 0.0))).started)
            store.start("other", proposal((share, 1 - share, 0.0)))
            if i % 2:
                store.record(study, i, evaluation())
            else:
                store.fail(study, i, Failure("exception", "why"))
            happened.append(store.trials(study)[i].finished)
        assert happened == sorted(set(happened))

    def test_trials_since_an_event_are_those_that_changed_after_it(
        self, store: Store, study: str
    ) -> None:
        for share in (0.1, 0.2, 0.3):
            store.start(study, proposal((share, 1 - share, 0.0)))
        before = store.status(study)["event"]
        assert list(store.trials(study, before)) == []
        store.record(study, 1, evaluation())
        store.record(study, 1, evaluation("test"))
        store.fail(study, 2, Failure("exception", "why"))
        everything = store.trials(study)
        assert list(store.trials(study, before)) == list(everything[1:])
        assert list(store.trials(study, store.status(study)["event"] - 1)) == [everything[2]]

    def test_scores_under_a_measure_are_those_of_every_study(
        self, store: Store, study: str
    ) -> None:
        measures = {"f": "m1", "g": "m2"}
        store.create_study(plan("other"))
        store.start(study, proposal())
        assert store.known(proposal().recipe.id, "dev", measures) == set()
        mine = store.record(study, 0, evaluation(), measures=measures)
        assert store.known(proposal().recipe.id, "dev", measures) == {"f", "g"}
        assert store.known(proposal().recipe.id, "dev", {"f": "m9"}) == set()
        assert store.known(proposal().recipe.id, "test", measures) == set()
        assert store.looked_at("dev", measures.values()) == 1
        store.start("other", proposal())
        theirs = store.adopt("other", 0, "dev", measures)
        assert (theirs.state, theirs.digest) == (mine.state, mine.digest)
        assert theirs.evaluations["dev"].scores == mine.evaluations["dev"].scores
        assert theirs.evaluations["dev"].seconds == {}
        assert store.outcomes("other", 0, "dev") == store.outcomes(study, 0, "dev")
        assert store.looked_at("dev", measures.values()) == 2
        store.delete_study(study)  # what others may use stays
        assert store.trials("other")[0] == theirs
        assert store.known(proposal().recipe.id, "dev", measures) == {"f", "g"}

    def test_answers_are_kept_for_every_study_and_prompts_once(self, store: Store) -> None:
        kept = Answers(("2+2=", "\ud800"), ("4", ""), ("5", "\n"), ("so 5", "\n"), (0.1, -1 / 3))
        outcomes = {"f": replace(Outcomes((4, 2), (0.0, 1.0)), answers=kept)}
        scores = {"f": Score(0.5, 0.1, 2), "g": Score(0.5, 0.0, 0)}
        made = plan("one", measures={"f": {"task": "sums"}, "g": {"task": "other"}})
        for name in ("one", "two"):
            store.create_study(replace(made, name=name))
            store.start(name, proposal())
        found = evaluation(scores=scores, outcomes=outcomes)
        store.record("one", 0, found, measures=made.measure_ids)
        store.adopt("two", 0, "dev", made.measure_ids)
        for name in ("one", "two"):
            reading = store.read(name)
            assert reading.answers(0, "dev", "f") == kept
            assert reading.outcomes(0, "dev")["f"].values == (0.0, 1.0)
            assert reading.answers(0, "dev", "g") is None
            assert reading.answers(0, "test", "f") is None

    def test_estimates_of_a_pruned_trial_are_its_own(self, store: Store, study: str) -> None:
        measures = {"f": "m1", "g": "m2"}
        store.start(study, proposal())
        store.record(study, 0, evaluation(), state=State.PRUNED, measures=measures)
        assert store.known(proposal().recipe.id, "dev", measures) == set()
        assert store.trials(study)[0].state == "pruned"

    def test_bytes_that_differ_from_those_of_another_study_are_a_mismatch(
        self, store: Store, study: str
    ) -> None:
        store.create_study(plan("other"))
        store.start(study, proposal())
        store.record(study, 0, evaluation(), measures={"f": "m1", "g": "m2"})
        store.start("other", proposal())
        only = {"g": Score(0.5, 0.1, 3)}
        with pytest.raises(Mismatch, match="blake2b:22"):
            store.record(
                "other",
                0,
                evaluation(scores=only, outcomes={}, digest="blake2b:22"),
                measures={"f": "m1", "g": "m3"},
                known=["f"],
            )
        assert store.trials("other")[0].state == "running"

    def test_a_study_is_held_again_after_it_was_let_go(self, store: Store, study: str) -> None:
        for _ in range(2):
            with pytest.raises(KeyError), store.hold(study):
                raise KeyError
        with store.hold(study):
            pass


HOLDER = """
import sys
from importlib import import_module
module, _, name = sys.argv[1].partition(":")
store = getattr(import_module(module), name)(sys.argv[2])
with store.hold("study"):
    print("held", flush=True)
    sys.stdin.read()
"""


class DurableStoreContract(StoreContract):
    """Also provide the fixture `address`, new for each test, and its opener `module:name`."""

    opener = "recycler.store.sql:SqlStore"

    @pytest.fixture
    def address(self) -> str:
        raise NotImplementedError

    def open(self, address: str) -> Any:
        module, _, name = self.opener.partition(":")
        return getattr(import_module(module), name)(address)

    @pytest.fixture
    def store(self, address: str) -> Iterator[Any]:
        opened = self.open(address)
        yield opened
        opened.close()

    def test_another_process_reads_what_was_written_at_once(
        self, store: Store, study: str, address: str
    ) -> None:
        store.start(study, proposal())
        store.record(study, 0, evaluation())
        again = self.open(address)
        assert again.plan(study) == plan()
        assert list(again.trials(study)) == list(store.trials(study))
        assert again.outcomes(study, 0, "dev") == store.outcomes(study, 0, "dev")
        again.close()

    def test_many_writers_at_once_get_numbers_and_events_of_their_own(
        self, store: Store, study: str, address: str
    ) -> None:
        def write(writer: int) -> None:
            own = self.open(address)
            for i in range(6):
                started = own.start(study, proposal((0.1 + writer, 0.1 + i, 0.0)))
                own.record(study, started.number, evaluation())
            own.close()

        with ThreadPoolExecutor(4) as threads:
            list(threads.map(write, range(4)))
        trials = store.trials(study)
        assert [trial.number for trial in trials] == list(range(24))
        events = [event for t in trials for event in (t.started, t.finished)]
        assert sorted(events) == list(range(min(events), min(events) + 48))

    def test_one_process_holds_a_study_until_it_is_killed(
        self, store: Store, study: str, address: str
    ) -> None:
        store.create_study(plan("other"))
        holder = subprocess.Popen(
            [sys.executable, "-c", HOLDER, self.opener, address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            with pytest.raises(Conflict, match="is being run by"), store.hold(study):
                pass
            with store.hold("other"):  # each study by itself
                pass
        finally:
            holder.kill()
            holder.communicate()
        self._hold_soon(store, study)

    def _hold_soon(self, store: Store, study: str) -> None:
        """Take the lease of a dead process; the server may need a moment to release it."""
        for _ in range(50):
            try:
                with store.hold(study):
                    return
            except Conflict:
                time.sleep(0.1)
        pytest.fail("a killed process still holds the study after 5 s")
