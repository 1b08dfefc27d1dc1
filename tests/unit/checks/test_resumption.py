"""What becomes of each state of a run that is gone on with otherwise than it was begun."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from msd_framework.callbacks.base import Callback
from msd_framework.callbacks.early_stopping import EarlyStopping
from msd_framework.checks.resume import FREE
from msd_framework.engine.resume import resume
from msd_framework.errors import CheckpointError, ConfigError
from tests.runs import tiny_objective, tiny_runner

EVERY_SECOND = {"validate_at": frozenset(range(2, 41, 2)), "save_at": frozenset(range(2, 41, 2)), "monitor": "score"}


class Counter(Callback):
    """Counts updates."""

    def __init__(self):
        self.count = 0

    def on_step_end(self, runner, output):
        self.count += 1

    def state(self):
        return {"count": self.count}

    def restore(self, state):
        self.count = state["count"]


class Stops(Callback):
    """Ends a run after its sixth update."""

    def on_step_end(self, runner, output):
        if runner.update == 6:
            runner.stop("six are enough")


def runner_of(folder, callbacks, scores=(0.5, 0.4, 0.3, 0.2, 0.1, 0.0), num_updates=12, **plan):
    runner, _ = tiny_runner(folder=folder, num_updates=num_updates, **{**EVERY_SECOND, **plan})
    left = iter(scores)
    runner.validate = lambda: {"score": (value := next(left, 0.0)), "other": -value}
    runner.callbacks = list(callbacks)
    return runner


def trained(folder, callbacks, **options):
    runner = runner_of(folder, callbacks, **options)
    runner.fit()
    return runner


def test_a_callback_gets_its_own_state_wherever_it_stands_in_the_list(tmp_path):
    trained(tmp_path, [EarlyStopping(4)], num_updates=6)
    counter, stopping = Counter(), EarlyStopping(4)
    again = runner_of(tmp_path, [counter, stopping])
    notes = resume(again)
    assert (counter.count, stopping.waited) == (0, 2)
    assert any("Counter is new among the callbacks: it begins afresh" in note for note in notes)


def test_a_run_whose_classes_have_changed_their_order_is_not_gone_on_with(tmp_path):
    first = runner_of(tmp_path, [], num_updates=6)
    first.card["facts"] = {"class_names": ["blue", "red"]}
    first.fit()
    again = runner_of(tmp_path, [])
    again.card["facts"] = {"class_names": ("red", "blue")}
    with pytest.raises(CheckpointError, match=r"its classes are blue, red, and now they are red, blue\. Bring the data back"):
        resume(again)
    again.card["facts"] = {"class_names": ("blue", "red")}
    assert resume(again)


def test_two_callbacks_of_a_kind_keep_their_states_apart(tmp_path):
    first, second = Counter(), Counter()
    second.count = 100
    trained(tmp_path, [first, EarlyStopping(9), second], num_updates=6)
    third, fourth = Counter(), Counter()
    again = runner_of(tmp_path, [EarlyStopping(9), third, fourth])
    resume(again)
    assert (third.count, fourth.count) == (6, 106)


def test_a_callback_that_is_gone_is_told(tmp_path):
    trained(tmp_path, [Counter(), EarlyStopping(9)], num_updates=6)
    again = runner_of(tmp_path, [])
    notes = resume(again)
    assert any("early_stopping is not among the callbacks any more" in note for note in notes)


def test_a_state_that_its_callback_cannot_take_is_a_sentence(tmp_path):
    class Older(Counter):
        def state(self):
            return {"seen": self.count}

    Older.__qualname__, Older.__module__ = Counter.__qualname__, Counter.__module__
    trained(tmp_path, [Older()], num_updates=6)
    with pytest.raises(ConfigError, match=r"callbacks: .*Counter cannot take back the state .*KeyError: 'count'"):
        resume(runner_of(tmp_path, [Counter()]))


def test_a_state_that_is_no_json_is_told_before_the_first_update(tmp_path):
    class Sets(Callback):
        def state(self):
            return {"names": {1, 2}}

    runner = runner_of(tmp_path, [Sets()])
    with pytest.raises(ConfigError, match=r"callbacks: the state of .*Sets cannot be written as JSON: .*set"):
        runner.fit()
    assert runner.update == 0


@pytest.mark.parametrize("callbacks", [[], [EarlyStopping(4)]], ids=["without", "more patience"])
def test_a_run_that_had_stopped_trains_on_where_the_reason_no_longer_holds(tmp_path, callbacks):
    first = trained(tmp_path, [EarlyStopping(2)])
    assert (first.update, first.stopped_by) == (6, "early_stopping")
    again = runner_of(tmp_path, callbacks, scores=[0.9] * 9)
    notes = resume(again)
    again.fit()
    assert again.update == 12
    assert any("that holds no longer, so it trains on" in note for note in notes)


def test_a_longer_run_that_stays_stopped_says_why(tmp_path):
    trained(tmp_path, [EarlyStopping(2)])
    with pytest.raises(ConfigError, match=r"callbacks: the run has stopped at update 6, since score has not improved in 2 valid"):
        resume(runner_of(tmp_path, [EarlyStopping(2)], num_updates=20))


def test_the_same_command_over_a_run_that_has_stopped_makes_no_update(tmp_path):
    trained(tmp_path, [Stops()])
    again = runner_of(tmp_path, [Stops()])
    notes = resume(again)
    again.fit()
    assert again.update == 6
    assert "no update is made: six are enough" in notes


def test_another_watched_metric_has_a_best_value_of_its_own(tmp_path):
    trained(tmp_path, [EarlyStopping(9)], num_updates=6)
    stopping = EarlyStopping(9)
    again = runner_of(tmp_path, [stopping], scores=[0.3, 0.2, 0.4], monitor="other")
    notes = resume(again)
    assert again.best is None
    again.fit()
    assert again.best == stopping.best == -0.2
    assert again.checkpoints.path("best").name == "update_00000010"
    assert (tmp_path / "update_00000002").is_dir()  # the best by the other metric
    assert any(note.startswith("the best score so far, 0.5, was measured otherwise") for note in notes)


@pytest.mark.parametrize("change", [{"measured": {"metric": "f1 at 0.3"}}, {"larger_is_better": False}])
def test_values_that_were_measured_otherwise_are_not_compared_with(tmp_path, change):
    trained(tmp_path, [], num_updates=6)
    again = runner_of(tmp_path, [], **change)
    resume(again)
    assert again.best is None


def test_an_end_before_the_checkpoint_is_refused(tmp_path):
    trained(tmp_path, [])
    with pytest.raises(ConfigError, match=r"training\.max_updates: the run ends after 4 updates, and its .* from update 12\."):
        resume(runner_of(tmp_path, [], num_updates=4))


def test_a_longer_run_goes_on_at_the_rate_of_its_own_schedule(tmp_path):
    trained(tmp_path, [])
    longer = runner_of(tmp_path, [], num_updates=24)
    fresh = runner_of(tmp_path / "fresh", [], num_updates=24)
    notes = resume(longer)
    wanted = [base * rate(12) for base, rate in zip(fresh.scheduler.base_lrs, fresh.scheduler.lr_lambdas, strict=True)]
    assert [group["lr"] for group in longer.optimizer.param_groups] == wanted
    assert any("the schedule is that of 24 updates" in note for note in notes)


def test_other_training_examples_are_refused(tmp_path):
    trained(tmp_path, [], num_updates=6, examples="these")
    with pytest.raises(CheckpointError, match=r"was made on other training examples than those that are there now"):
        resume(runner_of(tmp_path, [], examples="others"))


def test_what_an_objective_has_learned_must_be_all_there(tmp_path):
    trained(tmp_path, [], num_updates=6)
    objective = tiny_objective()
    objective.register_buffer("learned", next(objective.parameters()).detach())
    runner, _ = tiny_runner(folder=tmp_path, objective=objective)
    with pytest.raises(CheckpointError, match="learned is missing there"):
        resume(runner)


def test_another_number_of_processes_is_told(tmp_path):
    trained(tmp_path, [], num_updates=6)
    again = runner_of(tmp_path, [])
    again.world = replace(again.world, size=2)
    notes = resume(again)
    assert any(note.startswith("1 processes before, 2 now") for note in notes)


def test_the_page_lists_what_may_change_and_what_happens_to_its_state():
    page = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    for key, what in FREE.items():
        assert any(f"`{key}`" in row and row.endswith(f"| {what} |") for row in rows), key
