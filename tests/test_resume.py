"""A stop after every single event: each sampler goes on as if nothing had happened."""

import pytest
import stopping

from recycler.front.racing import settings_of
from recycler.search.samplers import SAMPLERS

# bench/resume.py runs all of them with 60
EVALUATIONS = {"auto": 60, "nehvi": 6, "gp": 6}


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_one_worker_the_ledger_is_that_of_the_undisturbed_run(sampler, tmp_path):
    made = stopping.plan(sampler, EVALUATIONS.get(sampler, 16))
    expected = stopping.undisturbed(made, tmp_path / "whole.db")
    found, stops = stopping.stopped_after_every_event(made, tmp_path / "stopped.db")
    assert found == expected
    assert stops == 2 * len(found) + 1  # each start, each end, and the reference


@pytest.mark.parametrize("sampler", ["auto", "paper"])
def test_with_several_in_flight_nothing_is_lost_or_made_twice(sampler, tmp_path):
    made = stopping.plan(sampler, 30)
    found, _ = stopping.stopped_after_every_event(made, tmp_path / "stopped.db", width=3)
    assert stopping.complete(found) == len(found) == made.n + 2 + 30
    assert len({trial["id"] for trial in found}) == len(found)
    assert sorted(t["finished"] for t in found) == sorted({t["finished"] for t in found})


def test_a_race_goes_on_at_the_block_where_it_was_stopped(tmp_path):
    made = stopping.plan("auto", 20, racing=settings_of({"blocks": [0.25, 0.5, 1.0]}))
    expected = stopping.undisturbed(made, tmp_path / "whole.db")
    found, _ = stopping.stopped_after_every_event(made, tmp_path / "stopped.db")
    assert found == expected
    assert any(trial["state"] == "pruned" for trial in found)


@pytest.mark.parametrize("items", [1, 3, 4])
def test_a_race_on_very_few_items_has_no_block_without_one(items, tmp_path, monkeypatch):
    monkeypatch.setattr(stopping, "ITEMS", items)
    made = stopping.plan("dirichlet", 8, greedy=False, racing=settings_of(True))
    found = stopping.undisturbed(made, tmp_path / "whole.db")
    assert {trial["state"] for trial in found} <= {"complete", "pruned"}
    assert all(t["scores"]["dev"]["a"].items >= 1 for t in found)
