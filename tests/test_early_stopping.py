"""Early stopping: when a run ends, and when a task is paused and comes back."""

import json
from typing import Any

import pytest

from hf_mtl.config_keys import TrainingConfig
from hf_mtl.training.early_stopping import EarlyStopping

TASKS = ["topic", "names"]


def make(mode: str | None, patience: int = 1, threshold: float = 0.0) -> EarlyStopping:
    options: dict[str, Any] = {"early_stopping_patience": patience, "early_stopping_threshold": threshold}
    training = TrainingConfig(output_dir="out", early_stopping=mode, **(options if mode else {}))
    return EarlyStopping(training, TASKS)


def ends_after(stopping: EarlyStopping, scores: list[float | None]) -> int | None:
    """The evaluation, counted from 1, after which the run is over."""
    for number, score in enumerate(scores, start=1):
        stopping.update(score, {})
        if stopping.ended:
            return number
    return None


@pytest.mark.parametrize(
    ("patience", "threshold", "scores", "end"),
    [
        (1, 0.0, [0.5, 0.6, 0.7, 0.8], None),
        (1, 0.0, [0.5, 0.6, 0.55, 0.9], 3),
        (1, 0.0, [0.5, 0.5], 2),
        (2, 0.0, [0.5, 0.4, 0.45, 0.9], 3),
        (2, 0.0, [0.5, 0.4, 0.6, 0.5, 0.6], 5),
        (3, 0.0, [0.5, 0.4, 0.3, 0.6, 0.5, 0.5], None),
        # As transformers counts: a gain that is not above the threshold is none, and the best stays.
        (1, 0.25, [0.25, 0.75, 1.0], 3),
        (2, 0.25, [0.25, 0.5, 0.75, 0.75, 0.75], 5),
        (1, 0.0, [-0.5, -0.25, -0.125], None),
        (1, 0.0, [None, None, None], None),
        (1, 0.0, [0.5, None, 0.5], 3),
    ],
)
def test_the_run_ends_when_the_score_gains_no_more(patience, threshold, scores, end):
    assert ends_after(make("overall", patience, threshold), scores) == end


def test_overall_looks_at_the_score_alone_and_pauses_no_task():
    stopping = make("overall")
    for score in (0.1, 0.2, 0.3):
        assert stopping.update(score, {"topic": 0.5, "names": 0.5}) == []
    assert not stopping.ended
    assert (stopping.paused, stopping.active) == ({}, tuple(TASKS))
    assert stopping.update(0.3, {"topic": 0.9, "names": 0.9}) == [
        "the score has not risen in 1 evaluations: training ends"
    ]
    assert stopping.ended
    assert stopping.active == tuple(TASKS)


def test_without_early_stopping_nothing_ends():
    stopping = make(None)
    for _ in range(5):
        assert stopping.update(0.1, {"topic": 0.1, "names": 0.1}) == []
    assert not stopping.ended
    assert stopping.active == tuple(TASKS)


def test_a_task_is_paused_alone_and_the_score_does_not_matter():
    stopping = make("per_task", patience=2)
    said = [
        stopping.update(0.9, {"topic": 0.50, "names": 0.1}),
        stopping.update(0.1, {"topic": 0.40, "names": 0.2}),
        stopping.update(0.1, {"topic": 0.45, "names": 0.3}),
    ]
    assert said == [[], [], ["topic is paused at 0.4500: no gain in 2 evaluations"]]
    assert stopping.paused == {"topic": 0.45}
    assert stopping.active == ("names",)
    assert not stopping.ended


def test_a_paused_task_is_still_measured_and_rejoins_when_it_falls_by_more_than_the_threshold():
    stopping = make("per_task", threshold=0.25)
    stopping.update(0, {"topic": 0.75, "names": 0.0})
    stopping.update(0, {"topic": 0.5, "names": 0.5})
    assert stopping.paused == {"topic": 0.5}
    # Higher, and lower by the threshold: it stays away, and what it falls from is its score at the pause.
    for reached, names in ((0.875, 0.875), (0.25, 1.25)):
        assert stopping.update(0, {"topic": reached, "names": names}) == []
        assert stopping.paused == {"topic": 0.5}
    assert stopping.update(0, {"topic": 0.125, "names": 1.75}) == [
        "topic rejoins with the next epoch: 0.1250, after 0.5000"
    ]
    assert stopping.paused == {}
    assert stopping.active == tuple(TASKS)


@pytest.mark.parametrize(
    ("scores", "wanted"),
    [
        # 0.35 is a gain over 0.3, at which it rejoined, though not over 0.5.
        ((0.5, 0.4, 0.4, 0.3, 0.35, 0.35, 0.2), [False, False, True, False, False, False, True]),
        # No gain since 0.3: two evaluations more.
        ((0.5, 0.4, 0.4, 0.3, 0.25, 0.2, 0.3), [False, False, True, False, False, True, True]),
    ],
)
def test_a_task_that_rejoined_has_its_patience_counted_anew_from_there(scores, wanted):
    stopping = make("per_task", patience=2)
    paused = []
    for number, reached in enumerate(scores):
        stopping.update(0, {"topic": reached, "names": number / 8})
        paused.append("topic" in stopping.paused)
    assert paused == wanted
    assert stopping.paused == {"topic": 0.2}


def test_a_task_that_rejoined_is_not_judged_before_an_epoch_draws_for_it():
    stopping = make("per_task")
    for reached, planned in ((0.5, TASKS), (0.4, TASKS), (0.3, ["names"]), (0.2, ["names"]), (0.1, ["names"])):
        stopping.update(0, {"topic": reached, "names": 1 - reached}, planned)
        assert ("topic" in stopping.paused) == (reached == 0.4)
    assert stopping.best["topic"] == 0.3
    stopping.update(0, {"topic": 0.1, "names": 1.0}, TASKS)
    assert stopping.paused == {"topic": 0.1}


def test_training_ends_when_every_task_is_paused():
    stopping = make("per_task")
    stopping.update(0.5, {"topic": 0.5, "names": 0.5})
    stopping.update(0.5, {"topic": 0.5, "names": 0.6})
    assert not stopping.ended
    assert stopping.update(0.5, {"topic": 0.5, "names": 0.6}) == [
        "names is paused at 0.6000: no gain in 1 evaluations",
        "every task is paused: training ends",
    ]
    assert stopping.ended
    assert stopping.active == ()


def test_a_task_without_validation_is_never_paused_and_keeps_the_run_going():
    stopping = make("per_task")
    for _ in range(5):
        stopping.update(0.5, {"topic": 0.5})
    assert stopping.active == ("names",)
    assert not stopping.ended


@pytest.mark.parametrize("mode", ["overall", "per_task"])
@pytest.mark.parametrize("cut", range(7))
def test_after_a_resume_it_counts_on(mode, cut):
    evaluations = [(score / 10, {"topic": score / 10, "names": 1 - score / 10}) for score in (5, 6, 5, 4, 7, 7, 7)]
    straight = make(mode, patience=2)
    wanted = [(straight.update(*one), straight.ended, straight.active) for one in evaluations]
    assert any(said for said, _, _ in wanted)

    stopping = make(mode, patience=2)
    found = [(stopping.update(*one), stopping.ended, stopping.active) for one in evaluations[:cut]]
    saved = json.dumps(stopping.to_json())
    again = make(mode, patience=2)
    values = json.loads(saved)
    again.load(values)
    found += [(again.update(*one), again.ended, again.active) for one in evaluations[cut:]]
    assert found == wanted
    assert json.dumps(values) == saved  # they are still what was saved
    assert again.to_json() == straight.to_json()
