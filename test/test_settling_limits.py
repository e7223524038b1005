"""Limits that change hold at once, whatever is being settled or consolidated."""

import numpy as np
import pytest

from adapting import V, in_the_engine, world_with_a_true_event


def test_no_more_wait_than_may_be_kept():
    world, name = world_with_a_true_event()
    world.session.settings = world.session.settings.changed(replay=2)
    names = [name]
    while len(names) < 3:
        found, called = world.beat('odd')
        names += [found] if called == 'veb' else []
    outcomes = [world.session.feedback(one, False) for one in names]
    assert [outcome.learnt for outcome in outcomes] == [True, True, False]
    assert 'waiting already' in outcomes[2].reason


def test_a_smaller_norm_holds_at_once_and_counts_as_an_update():
    world, name = world_with_a_true_event()
    assert world.tell(name, False).learnt
    world.now += world.session.settings.interval
    assert world.session.tick() and world.tell(world.beat(V)[0], True).learnt  # both tiers in use
    before, status = world.session.delta.copy(), world.session.status()
    most = 0.3 * status['norm']
    world.session.settings = world.session.settings.changed(max_norm=most / 0.98)
    after = world.session.status()
    assert after['norm'] == pytest.approx(most, rel=1e-4) and in_the_engine(world)
    np.testing.assert_allclose(world.session.delta, 0.3 * before, atol=1e-5)
    assert after['updates'] == status['updates'] + 1  # the one on the disk is an older one
    world.session.settings = world.session.settings.changed(max_norm=1.0)
    assert world.session.status()['updates'] == after['updates']


def test_limits_that_change_while_it_is_solved_hold_for_the_solution(monkeypatch):
    world, name = world_with_a_true_event()
    solve, most = world.session._learner.solve, 0.3 * world.session.status()['norm']

    def meanwhile(*given):
        solution = solve(*given)
        world.session.settings = world.session.settings.changed(max_norm=most)
        monkeypatch.undo()
        return solution
    monkeypatch.setattr(world.session._learner, 'solve', meanwhile)
    assert world.tell(name, False).learnt
    assert 0.0 < world.session.status()['norm'] <= most * (1 + 1e-5) and in_the_engine(world)


def test_limits_that_change_while_it_is_consolidated_hold(monkeypatch):
    world, name = world_with_a_true_event()
    assert world.tell(name, False).learnt
    solve, most = world.session._learner.solve, 0.3 * world.session.status()['norm']

    def meanwhile(*given):
        solution = solve(*given)
        world.session.settings = world.session.settings.changed(max_norm=most)
        return solution
    monkeypatch.setattr(world.session._learner, 'solve', meanwhile)
    world.now += world.session.settings.interval
    assert world.session.tick() and in_the_engine(world)
    assert 0.0 < world.session.status()['norm'] <= most * (1 + 1e-5)


def test_a_smaller_shift_holds_at_once():
    world, name = world_with_a_true_event()
    settled = world.session.delta.copy()
    world.session.feedback(name, False)
    assert (world.session.delta != settled).any()
    world.session.settings = world.session.settings.changed(doubtful_shift=0.0)
    np.testing.assert_array_equal(world.session.delta, settled)
    assert in_the_engine(world)
