"""A running model that learns from feedback: the head's two tiers, the guards, the engine.

    deciding thread    detector ─► StreamMemory                    a short lock of its own
    any other thread   feedback ─► example ─► ``nudge`` ─► engine         microseconds
    one of its own     settle ─► solve ─► guards ─► micro tier ─► engine  tens of milliseconds
    now and then       tick ─► micro folded into base, base solved anew from the replay buffer

A feedback moves the head a little at once. ``settle`` then solves ``objective.py`` over the
feedbacks that are kept, cuts the difference to the base to rank 2, asks the guards how much of that
may be used, and puts it into the tiers. The engine takes either between two windows. Nothing is
solved while a lock is held that feedback waits for. Memory is bounded by what
``AdaptationSettings`` says of events, seconds and replay.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.adaptation.examples import Example, make_example
from taolora_ros.adaptation.guards import NEITHER, Judged, RateLimit
from taolora_ros.adaptation.head import WEIGHTS, AdaptedHead
from taolora_ros.adaptation.learner import Learner, Solution
from taolora_ros.adaptation.memory import StreamMemory
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.reference import Reference
from taolora_ros.adaptation.replay import Replay
from taolora_ros.adaptation.reports import Outcome, Report, on_event, on_miss
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.spec import ModelSpec

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine


class Session:
    """One model's adaptation, for all streams that its engine runs; safe to call from any thread.

    ``clock()`` (s) is what rate and interval are measured by. Attach ``memory(stream)`` to the
    detector of every stream. While settings are not enabled nothing is kept or learnt, and the
    engine decides as it was shipped; what was learnt comes back with them, ``reset`` forgets it.
    """

    def __init__(self, spec: ModelSpec, engine: Engine, reference: Reference,
                 settings: AdaptationSettings | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.spec, self.clock = spec, clock
        frozen = engine.read_weights(*WEIGHTS)
        self._objective = Objective(spec, reference, *(frozen[name] for name in WEIGHTS))
        self._learner = Learner(spec, self._objective)
        self._head = AdaptedHead(engine, self._objective, frozen)
        self._lock, self._solving = threading.Lock(), threading.Lock()
        self._memories: dict[str, StreamMemory] = {}
        self._settings = settings or AdaptationSettings()
        self._rate = RateLimit(self._settings.per_minute, clock())
        self._clear()
        self.settings = self._settings

    def _clear(self) -> None:
        """Begin from what is settled, without feedback; what is being solved will be dropped."""
        self._consolidated = self._head.settled
        self._replay = Replay(self._objective, self._head.settled)
        self._ticked = self.clock()
        self.last_consolidation: float | None = None                    # by the clock
        self.trusted = NEITHER  # whoever spoke last, see guards.py
        self._judged = Judged()
        self.counts: Counter = Counter()

    @property
    def settings(self) -> AdaptationSettings:
        """Return the settings in force; limits that are assigned hold at once."""
        return self._settings

    @settings.setter
    def settings(self, settings: AdaptationSettings) -> None:
        with self._lock:
            self._settings = settings
            if settings.per_minute != self._rate.per_minute:
                self._rate = RateLimit(settings.per_minute, self.clock())
            self.counts['limited'] += self._within_limits()
            self._head.apply(settings.enabled)
            self._lean()
            for memory in self._memories.values():
                memory.resize(settings.events, settings.seconds)

    def _within_limits(self) -> bool:
        """Shrink what is settled until it fits the limits, for good; return whether it did not."""
        over = self._learner.mend(self._head, self._settings)
        if over:
            self._replay.let_go(self._head.settled)
        return over

    @property
    def delta(self) -> np.ndarray:
        """Return the change (D + 1, K) that the engine decides with now; not to be written to."""
        return self._head.delta

    def memory(self, stream: str) -> StreamMemory:
        """Return the memory of a stream, to be told what its detector decides."""
        with self._lock:
            if stream not in self._memories:
                self._memories[stream] = StreamMemory(
                    self.spec, stream, self._settings.events, self._settings.seconds)
            return self._memories[stream]

    def feedback(self, event_id: str, correct: bool, label: str = '', quality: float = 1.0
                 ) -> Outcome:
        """Learn from what somebody says of an event; ``label`` is what it really was.

        '' means that it is not known, or nothing at all. Feedback on one event counts once: the
        last one. Raise ValueError for a label there is not, a quality outside 0 to 1 and
        feedback that contradicts itself.
        """
        report = on_event(self.spec, self._memories, event_id, correct, label, quality)
        if report is None:
            return self._refuse('unknown', f'{event_id!r:.99}: no event that is remembered')
        return self._take(report)

    def miss(self, stream: str, stamp_ns: int, label: str, quality: float = 1.0) -> Outcome:
        """Learn from an event called ``label`` that was not found; errors as for ``feedback``.

        Reports of one event count once, the last one: see replay.py.
        """
        report = on_miss(self.spec, self._memories, stream, stamp_ns, label, quality)
        if report is None:
            return self._refuse('unknown', f'{stream} at {stamp_ns}: not decided, or forgotten')
        return self._take(report)

    def _refuse(self, count: str, reason: str, key: str = '') -> Outcome:
        self.counts[count] += 1
        return Outcome(False, reason, key)

    def _take(self, report: Report) -> Outcome:
        """Let one example wait to be settled, and the engine lean towards it."""
        with self._lock:
            limits = self._settings
            if not limits.enabled:
                return self._refuse('disabled', 'adaptation.enabled is false')
            if not self._rate.take(self.clock()):
                return self._refuse('too_many', f'more than {limits.per_minute} feedbacks a minute')
            if len(self._replay.waiting) >= limits.replay:
                return self._refuse('too_many', f'{limits.replay} feedbacks are waiting already')
            moment = report.moment
            example = make_example(self.spec, moment, self._objective.frozen(moment.embedding),
                                   self.spec.labels.index(report.label), report.kind,
                                   report.quality)
            if example is None or report.quality == 0.0:
                return self._refuse('empty', 'nothing in it to learn from')
            key = self._replay.wait(report.key, example, self._head.delta)
            self._lean()
            return Outcome(True, key=key)

    def _lean(self) -> None:
        """Let the engine lean towards the feedback that is waiting, as far as it can be used."""
        limits = self._settings
        room = max(limits.max_norm - self._head.size, 0.0)
        self._head.lean(self._replay.lean(limits.doubtful_shift, room))

    def settle(self) -> list[Outcome]:
        """Learn from all feedback that waits; return what became of each.

        Takes some tens of milliseconds for each, during which more may come.
        """
        return list(iter(self.settle_next, None))

    def settle_next(self) -> Outcome | None:
        """Learn from what has waited longest; return what became of it, None when nothing waits."""
        with self._solving:
            with self._lock:
                if not self._replay.waiting:
                    return None
                replay, (key, example) = self._replay, next(iter(self._replay.waiting.items()))
            try:
                return self._settle(replay, key, example)
            except Exception as error:  # whatever it is, it is told, and the next may succeed
                with self._lock:
                    replay.settled(key, example)
                    refused = self._refuse('failed', f'it cannot be learnt: {error!r}', key)
                    self._lean()
                    return refused

    def _settle(self, replay: Replay, key: str, example: Example) -> Outcome:
        """Learn one example, or undo what it did when it does harm."""
        while True:  # until limits have not changed while it was solved
            with self._lock:
                limits = self._settings
                solve = self._problem(replay.with_one(key, example), example.stream, key)
            solution, harm = solve()
            with self._lock:
                if self._replay is not replay:
                    return Outcome(False, 'all was taken back meanwhile', key)
                if self._settings is limits:
                    return self._use(solution, harm, key, example)

    def _use(self, solution: Solution, harm: str, key: str, example: Example) -> Outcome:
        """Let what was solved for an example be what is settled, unless it does harm."""
        self._replay.settled(key, example)
        self.trusted = solution.trusted
        if example.label in solution.judged:
            self._judged.take(example.label, key, solution.judged[example.label])
        if harm:
            self._lean()
            return self._refuse('rolled_back', harm, key)
        self._head.settle(solution.change, solution.share)
        self._replay.keep(key, example, self._settings.replay, solution.delta)
        self._lean()
        self.counts[example.kind] += 1
        return Outcome(True, key=key)

    def _problem(self, examples: list[Example], stream: str, newest: str) -> Callable:
        """Return what solves for ``examples`` without a lock, and tells what harm that would do."""
        spoken = [e.stamp_ns for e in examples if e.stream == stream]
        memory, memories, limits = self._memories[stream], self._memories.copy(), self._settings
        begin = self._head.settled, self._head.base(), self._replay.centre
        earlier = self._judged.before(newest)

        def solve() -> tuple[Solution, str]:
            found = self._learner.solve(examples, memory.tokens(spoken), memories.values(), *begin,
                                        limits, earlier)
            return found, self._learner.harm(found.delta, limits)
        return solve

    def tick(self) -> bool:
        """Consolidate when it is time; return whether that was so. Call it now and then."""
        with self._solving:
            with self._lock:
                now, limits = self.clock(), self._settings
                replay, examples = self._replay, [*self._replay.kept.values()]
                if now - self._ticked < limits.interval or not limits.enabled or not examples:
                    return False
                self._ticked = self.last_consolidation = now
                self._fold()
                solve = self._problem(examples, examples[-1].stream, next(reversed(replay.kept)))
            solution, harm = solve()
            with self._lock:
                if self._replay is replay and self._settings is limits:
                    self._consolidate(solution, bool(harm))
            return True

    def _consolidate(self, solution: Solution, harmful: bool) -> None:
        """Take the base solved anew, unless that does harm."""
        self.trusted = solution.trusted
        if harmful:
            self.counts['rolled_back'] += 1
        else:
            self._head.settle(solution.change, solution.share)
        self._fold()

    def _fold(self) -> None:
        """Fold micro into the base."""
        self._head.consolidate()
        self._consolidated = self._head.settled
        self._lean()

    def reset(self) -> None:
        """Take back all that was learnt: scores are again those of the frozen model, bit by bit."""
        with self._lock:
            self._head.reset()
            self._clear()

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what is settled by layer, as checkpoints keep it."""
        with self._lock:
            return self._head.state()

    def load(self, layers: dict[str, dict[str, np.ndarray]]) -> None:
        """Take back a ``state``; raise ValueError, and change nothing, when it does not fit.

        The limits of now make it smaller; what would be nothing is not taken.
        """
        with self._lock:
            before = self._head.state()
            self._head.load(layers)
            had, harm = self._head.size, self._learner.harm(self._head.settled, self._settings)
            shrunk = self._within_limits()
            if had and not self._head.size:
                self._head.load(before)
                raise ValueError(f'adaptation: what was saved is not used: {harm or "max_norm: 0"}')
            self._clear()
            self.counts['limited'] += shrunk  # so that it is saved
            self._lean()

    def status(self) -> dict[str, float]:
        """Return for diagnostics: norm and drift in logits, updates, what was refused, age."""
        with self._lock:
            age = -1.0 if self.last_consolidation is None else (
                self.clock() - self.last_consolidation)
            learnt = sum(self.counts[kind] for kind in (
                'rejected', 'confirmed', 'missed', 'limited'))
            return {'norm': self._head.size, 'updates': learnt, 'trust': self.trusted,
                    'drift': self._objective.size(self._head.settled - self._consolidated),
                    'replay': len(self._replay.kept), 'waiting': len(self._replay.waiting),
                    'seconds_since_consolidation': age,
                    **{name: self.counts[name] for name in (
                        'rolled_back', 'failed', 'too_many', 'unknown', 'empty')}}
