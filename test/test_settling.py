"""A feedback moves the engine a little at once; what it is worth is settled without blocking it."""

import threading

import numpy as np
import pytest

from adapting import N, SHIFT, V, World, in_the_engine, world_with_a_true_event
from taolora_ros.adaptation.examples import evidence, log_odds, softmax
from taolora_ros.adaptation.settler import Settler
from taolora_ros.adaptation.targets import HEAD


def odds(world, x):
    """Return log odds of a ventricular beat of tokens (n, D)."""
    return log_odds(world.engine.probability(x) @ evidence(world.session.spec)[1])


def test_a_feedback_changes_the_next_decision_before_it_is_settled():
    world, name = world_with_a_true_event()
    example = world.memory.event(name).embedding[1:2]
    others = world.draw(np.repeat(world.centres[[N, V]], 200, 0))
    settled = world.session.state()[HEAD]
    before, rest = odds(world, example), odds(world, others)
    assert world.session.feedback(name, False).learnt
    assert world.session.status()['waiting'] == 1
    fall = (before - odds(world, example))[0]
    assert 0.3 * SHIFT < fall <= SHIFT  # bounded: nobody was asked yet whether to trust it
    assert np.abs(odds(world, others) - rest).mean() < 0.2 * fall
    for key, value in settled.items():
        np.testing.assert_array_equal(world.session.state()[HEAD][key], value)  # not kept yet
    assert 0.3 * SHIFT < (before - odds(world, example))[0]                     # and still there
    assert [outcome.learnt for outcome in world.session.settle()] == [True]
    assert (before - odds(world, example))[0] > fall and world.session.status()['waiting'] == 0


def test_what_cannot_be_used_yet_changes_nothing():
    world = World(23)
    weights = {name: w.copy() for name, w in world.engine.weights.items()}
    name, called = world.beat('odd')
    while called != 'veb':
        name, called = world.beat('odd')
    assert world.session.feedback(name, False).learnt  # nobody said what a true event is like
    assert all((weights[key] == w).all() for key, w in world.engine.weights.items())


@pytest.mark.parametrize('count', [1, 9])
def test_however_many_wait_the_engine_leans_no_further(count):
    world, name = world_with_a_true_event()
    names = [name]
    while len(names) < count:
        found, called = world.beat('odd')
        names += [found] if called == 'veb' else []
    tokens = np.concatenate([world.memory.event(one).embedding[1:2] for one in names])
    before = odds(world, tokens)
    for one in names:
        assert world.session.feedback(one, False).learnt
    fell = before - odds(world, tokens)
    assert 0.1 * SHIFT < fell.mean() and fell.max() <= SHIFT


def test_feedback_does_not_wait_for_what_is_being_solved(monkeypatch):
    world, name = world_with_a_true_event()
    second = world.beat(V)[0]
    solving, go, solve = threading.Event(), threading.Event(), world.session._learner.solve

    def slowly(*given):
        solving.set()
        assert go.wait(60)
        return solve(*given)
    monkeypatch.setattr(world.session._learner, 'solve', slowly)
    heard, settler = [], Settler(world.session, lambda outcome: heard.append(outcome))
    world.session.feedback(name, False)
    settler.wake()
    assert solving.wait(60)
    held = world.session.delta.copy()
    assert world.session.feedback(second, True).learnt      # with the first one still in the works
    assert world.session.status()['waiting'] == 2 and (world.session.delta != held).any()
    assert not settler.flush(0.01) and not heard
    go.set()
    assert settler.flush(60) and settler.close(60)
    assert [(outcome.key, outcome.learnt) for outcome in heard] == [(name, True), (second, True)]


def test_what_is_taken_back_while_it_is_solved_stays_taken_back(monkeypatch):
    world, name = world_with_a_true_event()
    solve = world.session._learner.solve

    def meanwhile(*given):
        world.session.reset()
        return solve(*given)
    monkeypatch.setattr(world.session._learner, 'solve', meanwhile)
    outcome = world.tell(name, False)
    assert not outcome.learnt and 'taken back' in outcome.reason
    assert not world.session.delta.any() and world.session.status()['replay'] == 0


def test_what_cannot_be_solved_for_is_told_and_the_next_is_learnt(monkeypatch):
    world, name = world_with_a_true_event()
    with monkeypatch.context() as patch:
        def fail(*given):
            raise np.linalg.LinAlgError('singular')
        patch.setattr(world.session._learner, 'solve', fail)
        before = world.session.state()[HEAD]['micro']
        outcome = world.tell(name, False)
    assert not outcome.learnt and 'singular' in outcome.reason and outcome.key == name
    assert world.session.status()['failed'] == 1 and world.session.status()['waiting'] == 0
    np.testing.assert_array_equal(world.session.state()[HEAD]['micro'], before)
    assert world.tell(name, False).learnt


def test_several_reports_of_one_missed_beat_count_once():
    world, _ = world_with_a_true_event()
    replay = world.session.status()['replay']
    world.beat('odd')
    for apart in (0, 1, -1, 140_000_000):
        assert world.settled(world.session.miss('ecg', world.time - apart, 'veb')).learnt
    assert world.session.status()['replay'] == replay + 1
    world.session.miss('ecg', world.time - 160_000_000 - 140_000_000, 'veb')
    world.session.settle()
    assert world.session.status()['replay'] == replay + 2


def test_the_token_that_leans_is_the_one_that_speaks_for_the_event():
    from taolora_ros.adaptation.nudge import loudest, signal_of
    world, name = world_with_a_true_event()
    session = world.session
    session.feedback(name, False)
    example = session._replay.waiting[name]
    token = loudest(session._objective, example)
    x, moment = example.x[token], world.memory.event(name)
    np.testing.assert_array_equal(x[:-1], moment.embedding[1])
    p = softmax(example.frozen[token][None])[0]
    told = signal_of(example, session._objective.evidence[1], x, p)
    assert told.decided == 3 + int(p[4] > p[3]) and told.correct is False


def test_the_thread_goes_on_after_a_failure_and_tells_it(monkeypatch):
    world, name = world_with_a_true_event()
    heard, settler = [], Settler(world.session, lambda outcome: heard.append(outcome))
    with monkeypatch.context() as patch:
        def fail():
            raise RuntimeError('the device is gone')
        patch.setattr(world.session, 'tick', fail)
        assert settler.flush(60) and 'the device is gone' in settler.error
    with monkeypatch.context() as patch:
        def refuse(*given):
            raise RuntimeError('no room')
        patch.setattr(world.session._head, 'settle', refuse)
        world.session.feedback(name, False)
        assert settler.flush(60)
    assert not heard[0].learnt and 'no room' in heard[0].reason and settler.error == ''
    assert world.session.status()['replay'] == 1  # what is not learnt is not kept
    np.testing.assert_array_equal(world.session.delta, world.session._head.settled)
    assert in_the_engine(world)  # nor leant towards any more
    world.session.feedback(name, False)
    assert settler.flush(60) and heard[1].learnt and settler.close(60)


def test_consolidating_the_engine_gets_what_was_solved_anew():
    world, name = world_with_a_true_event()
    assert world.tell(name, False).learnt
    world.now += world.session.settings.interval
    assert world.session.tick() and in_the_engine(world)
    np.testing.assert_array_equal(world.session.delta, world.session._head.settled)


@pytest.mark.parametrize('max_norm', [0.0, 0.15, 0.4])
def test_what_is_settled_is_what_the_guards_have_judged(monkeypatch, max_norm):
    world = World(int(np.random.default_rng().integers(2 ** 31)), interval=5.0, max_norm=max_norm)
    learner, judged, reached = world.session._learner, [], 0.0
    solve = learner.solve

    def kept(*given):
        judged.append(solve(*given))
        return judged[-1]
    monkeypatch.setattr(learner, 'solve', kept)
    for kind in (V, 'odd', N, V, 'odd') * 4:
        name, called = world.beat(kind)
        outcome = (world.session.feedback(name, kind == V) if called == 'veb' else
                   world.session.miss('ecg', world.time, 'veb'))
        assert world.session._objective.size(world.session.delta) <= max_norm  # while it waits, too
        outcome = world.settled(outcome)
        settled = world.session._head.settled
        if outcome.learnt:
            np.testing.assert_allclose(settled, judged[-1].delta, atol=1e-5)
        reached = max(reached, world.session._objective.size(settled))
        if world.session.tick():  # a base, beside which rank 2 has to do
            np.testing.assert_allclose(world.session._head.base(), world.session._head.settled,
                                       atol=1e-5)
    assert 0.9 * max_norm <= reached <= max_norm


def test_what_is_taken_back_while_it_is_consolidated_stays_taken_back(monkeypatch):
    world, name = world_with_a_true_event()
    assert world.tell(name, False).learnt
    solve = world.session._learner.solve

    def meanwhile(*given):
        world.session.reset()
        return solve(*given)
    monkeypatch.setattr(world.session._learner, 'solve', meanwhile)
    world.now += world.session.settings.interval
    world.session.tick()
    assert not world.session.delta.any() and in_the_engine(world)


def test_what_is_settled_while_disabled_reaches_the_engine_when_enabled():
    world, name = world_with_a_true_event()
    frozen = world.session._head.frozen
    world.session.feedback(name, False)
    world.session.settings = world.session.settings.changed(enabled=False)
    world.session.settle()
    assert all((frozen[key] == world.engine.weights[key]).all() for key in frozen)
    world.session.settings = world.session.settings.changed(enabled=True)
    assert world.session.delta.any() and in_the_engine(world)
