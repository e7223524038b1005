"""What is kept of a stream to learn from is bounded, and of one time."""

import tracemalloc

from adapting import SPEC, STEP, V, World


SEED = 11


def test_memory_does_not_grow_with_feedback():
    world = World(SEED, replay=6, events=16, seconds=10.0)

    def feedbacks(count):
        for _ in range(count):
            name, called = world.beat(V)
            assert world.tell(name, called == 'veb').learnt
        return tracemalloc.get_traced_memory()[0]
    world.tell(world.beat(V)[0], True)
    tracemalloc.start()
    try:
        before, after = feedbacks(20), feedbacks(40)
    finally:
        tracemalloc.stop()
    assert world.session.status()['updates'] == 61
    assert abs(after - before) < 30_000  # bytes; 40 examples would take 100 000


def test_time_that_jumps_back_leaves_no_tokens_of_before():
    world = World(SEED)
    first = [world.beat(V)[0] for _ in range(10)]
    kept = world.memory.event(first[4])
    world.time = 0  # as when a bag begins anew
    again = [world.beat(V)[0] for _ in range(10)]
    for name in (first[-1], again[3], again[-1]):
        assert len(world.memory.event(name).since) <= 3  # of one beat, not of two plays
    assert world.memory.event(first[4]) is kept
    assert world.memory.moment(world.time - STEP) is not None
    assert len(world.memory.recent('veb', 99)) + 1 >= sum(
        world.memory.event(name).label == 'veb' for name in first + again)


def test_memory_stays_bounded():
    world = World(SEED, events=20, seconds=30.0, replay=7)
    for i in range(120):
        name, called = world.beat(V)
        if i % 6:
            continue
        world.tell(name, called == 'veb')
    memory = world.memory
    assert len(memory._kept) <= 20 and len(memory._found) <= 21
    assert len(memory._rows) <= max(30 * SPEC.rate / SPEC.patch + 1, SPEC.tokens)
    assert world.session.status()['replay'] == 7
    assert not world.session.feedback('e1', True).learnt
    world.session.settings = world.session.settings.changed(events=3)
    assert len(memory._kept) <= 3
