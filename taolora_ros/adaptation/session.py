"""A running model that learns from feedback: the head's two tiers, the guards, the engine.

    deciding thread    detector ─► StreamMemory                    a short lock of its own
    any other thread   feedback ─► example ─► solve ─► guards ─► micro tier ─► engine
    now and then       tick ─► micro folded into base, base solved anew from the replay buffer

The change of the head solves ``objective.py`` over the feedbacks that are kept. After every
feedback its difference to the base goes into the micro tier, as well as rank 2 can; the engine
takes it between two windows, so that the next one is decided with it. Memory is bounded
by what ``AdaptationSettings`` says of events, seconds and replay.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.adaptation.examples import UNIT, Example, make_example
from taolora_ros.adaptation.guards import NEITHER, RateLimit, foretold
from taolora_ros.adaptation.learner import Learner
from taolora_ros.adaptation.lora import AdaptedLayer
from taolora_ros.adaptation.memory import Moment, StreamMemory
from taolora_ros.adaptation.objective import Objective
from taolora_ros.adaptation.reference import Reference
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.adaptation.targets import HEAD
from taolora_ros.spec import ModelSpec

if TYPE_CHECKING:  # importing an engine brings torch with it
    from taolora_ros.engine import Engine

RANKS = 8, 2            # of base and micro: with up to 8 classes the base loses nothing
WEIGHTS = ('head.weight', 'head.bias')


@dataclass(frozen=True)
class Outcome:
    """What became of a feedback: whether it was learnt, and if not, why not."""

    learnt: bool
    reason: str = ''


class Session:
    """One model's adaptation, for all streams that its engine runs; safe to call from any thread.

    ``clock()`` (s) is what rate and interval are measured by. Attach ``memory(stream)`` to the
    detector of every stream. While settings are not enabled nothing is kept or learnt, and the
    engine decides as it was shipped; what was learnt comes back with them, ``reset`` forgets it.
    """

    def __init__(self, spec: ModelSpec, engine: Engine, reference: Reference,
                 settings: AdaptationSettings | None = None,
                 clock: Callable[[], float] = time.monotonic):
        self.spec, self.engine, self.clock = spec, engine, clock
        self._frozen = engine.read_weights(*WEIGHTS)
        self._objective = Objective(spec, reference, *(self._frozen[name] for name in WEIGHTS))
        self._learner = Learner(spec, self._objective)
        self._layer = AdaptedLayer(*self._objective.shape, *RANKS, alpha=RANKS[0])
        self._lock = threading.Lock()
        self._memories: dict[str, StreamMemory] = {}
        self._settings = settings or AdaptationSettings()
        self._clear()
        self.settings = self._settings

    def _clear(self) -> None:
        self._examples: OrderedDict[str, Example] = OrderedDict()
        self._delta = np.zeros(self._objective.shape, np.float32)   # in the engine
        self._centre = self._delta                                  # what examples are gone from
        self._consolidated = self._delta
        self._ticked = self.clock()
        self.last_consolidation: float | None = None                # by the clock
        self._alone = self._delta                    # what feedback asks for without the guards
        self._told: deque[float] = deque(maxlen=self._settings.replay)  # how well it foretold
        self.trusted = NEITHER  # whoever rejected last, see guards.py
        self.counts: Counter = Counter()

    @property
    def settings(self) -> AdaptationSettings:
        """Return the settings in force; what is assigned holds from the next feedback on."""
        return self._settings

    @settings.setter
    def settings(self, settings: AdaptationSettings) -> None:
        with self._lock:
            self._settings = settings
            self._rate = RateLimit(settings.per_minute, self.clock())
            self.engine.keeps_embedding = settings.enabled
            self.engine.write_weights(adapted(self._frozen, self._delta) if settings.enabled
                                      else self._frozen)
            for memory in self._memories.values():
                memory.resize(settings.events, settings.seconds)

    @property
    def delta(self) -> np.ndarray:
        """Return the change (D + 1, K) that the engine decides with now; not to be written to."""
        return self._delta

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
        self._check(label, quality)
        moment = next((m for memory in list(self._memories.values())
                       if (m := memory.event(event_id)) is not None), None)
        if moment is None:
            return self._refuse('unknown', f'{event_id!r:.99}: no event that is remembered')
        if correct and label not in ('', moment.label):
            raise ValueError(f'feedback on {event_id!r:.99}: a {moment.label} called correct, and '
                             f'a {label}')
        if not correct and label == moment.label:
            raise ValueError(f'feedback on {event_id!r:.99}: a {label} called wrong, and a {label}')
        kind, meant = ('confirmed' if correct else 'rejected'), moment.label
        if not correct and label and self.spec.kind == 'ecg' and label == self.spec.labels[1]:
            kind, meant = 'missed', label  # a beat, but a ventricular one
        return self._take(event_id, moment, meant, kind, quality)

    def miss(self, stream: str, stamp_ns: int, label: str, quality: float = 1.0) -> Outcome:
        """Learn from an event called ``label`` that was not found; errors as for ``feedback``."""
        self._check(label, quality)
        if not label:
            raise ValueError(f'a missed event needs a label, one of {", ".join(self.spec.labels)}')
        memory = self._memories.get(stream)
        if memory is None:
            raise ValueError(f'{stream!r:.99}: no such stream; there are '
                             f'{", ".join(self._memories)}')
        moment = memory.moment(stamp_ns)
        if moment is None:
            return self._refuse('unknown', f'{stream} at {stamp_ns}: not decided, or forgotten')
        return self._take(f'{stream}@{stamp_ns}', moment, label, 'missed', quality)

    def _check(self, label: str, quality: float) -> None:
        if label and label not in self.spec.labels:
            raise ValueError(f'label: {label!r:.99} is none of {", ".join(self.spec.labels)}')
        if not 0.0 <= quality <= 1.0:
            raise ValueError(f'quality: {quality!r:.99} must be 0 to 1')

    def _refuse(self, count: str, reason: str) -> Outcome:
        self.counts[count] += 1
        return Outcome(False, reason)

    def _take(self, key: str, moment: Moment, label: str, kind: str, quality: float) -> Outcome:
        """Learn one example, or undo what it did when it does harm."""
        with self._lock:
            if not self._settings.enabled:
                return self._refuse('disabled', 'adaptation.enabled is false')
            if not self._rate.take(self.clock()):
                return self._refuse('too_many', f'more than {self._settings.per_minute} feedbacks '
                                                'a minute')
            example = make_example(self.spec, moment, self._objective.frozen(moment.embedding),
                                   self.spec.labels.index(label), kind, quality)
            if example is None or quality == 0.0:
                return self._refuse('empty', 'nothing in it to learn from')
            before = self._examples.pop(key, None)
            if before is None and kind != 'missed' and self._alone.any():
                self._told.append(self._learner.foretells(self._alone, example))
            self._examples[key] = example
            delta = self._solve(moment.stream)
            if self._learner.harmful(delta, self._settings):
                del self._examples[key]
                if before is not None:
                    self._examples[key] = before
                lost, new = self._learner.damage(delta)
                return self._refuse('rolled_back', f'it would lose {lost:.1%} of the reference\'s '
                                                   f'events and invent {new:.1%}')
            self._forget(delta)
            self._to_micro(delta)
            self._put()
            self.counts[kind] += 1
            return Outcome(True)

    def _forget(self, delta: np.ndarray) -> None:
        """Let go of feedback that is too much to keep; what it changed, ``delta``, stays.

        The last event of a label that was confirmed or missed is kept: nothing is learnt without.
        """
        while len(self._examples) > self._settings.replay:
            true = Counter(e.label for e in self._examples.values() if e.sign > 0)
            oldest = next((key for key, e in self._examples.items()
                           if e.sign < 0 or true[e.label] > 1), next(iter(self._examples)))
            del self._examples[oldest]
            self._centre = delta

    def _solve(self, stream: str) -> np.ndarray:
        """Return the change that the kept feedback asks for, as far as the guards allow."""
        solution = self._learner.solve(
            list(self._examples.values()), self._own(stream), self._memories.values(),
            self._delta, self._centre, foretold(self._told), self._settings)
        self._alone, self.trusted = solution.alone, solution.trusted
        return solution.delta

    def _own(self, stream: str) -> np.ndarray:
        """Return tokens (n, D) of a stream's recent past of which nobody spoke."""
        spoken = [e.stamp_ns for e in self._examples.values() if e.stream == stream]
        return self._memories[stream].tokens(spoken)

    def _to_micro(self, delta: np.ndarray) -> None:
        """Put what ``delta`` differs by from the base into the micro tier, as rank 2 can."""
        r, q = RANKS
        state = self._layer.state()
        base = self._layer.inputs[:r].T @ self._layer.outputs[:r]
        left = delta - base
        gram = left.T @ self._objective.moment @ left                # (K, K), in logits
        vectors = np.linalg.eigh(gram)[1][:, ::-1][:, :q]            # (K, q)
        k = self._layer.in_features
        state['micro'][:, :k], state['micro'][:, k:] = (left @ vectors).T, vectors.T
        state['counts'][0] += 1
        self._layer.load(state)

    def _put(self) -> None:
        """Let the engine decide with what the layer holds."""
        self._delta = self._layer.delta()
        if self._settings.enabled:
            self.engine.write_weights(adapted(self._frozen, self._delta))

    def tick(self) -> bool:
        """Consolidate when it is time; return whether that was so. Call it now and then."""
        with self._lock:
            now = self.clock()
            due = now - self._ticked >= self._settings.interval
            if not due or not self._settings.enabled or not self._examples:
                return False
            self._consolidate(now)
            return True

    def _consolidate(self, now: float) -> None:
        """Fold micro into base and solve the base anew; keep what it was if that does harm."""
        self._ticked = self.last_consolidation = now
        self._layer.consolidate()
        last = next(reversed(self._examples.values())).stream
        delta = self._solve(last)
        if not self._learner.harmful(delta, self._settings):
            self._to_micro(delta)
            self._layer.consolidate()
        else:
            self.counts['rolled_back'] += 1
        self._put()
        self._consolidated = self._delta

    def reset(self) -> None:
        """Take back all that was learnt: scores are again those of the frozen model, bit by bit."""
        with self._lock:
            self._layer.reset()
            self.engine.write_weights(self._frozen)
            self._clear()

    def state(self) -> dict[str, dict[str, np.ndarray]]:
        """Return what was learnt by layer, as checkpoints keep it."""
        with self._lock:
            return {HEAD: self._layer.state()}

    def load(self, layers: dict[str, dict[str, np.ndarray]]) -> None:
        """Take back a ``state``; raise ValueError, and change nothing, when it does not fit.

        It must keep within the limits that hold now.
        """
        if set(layers) != {HEAD}:
            raise ValueError(f'adaptation: layers {sorted(layers)}, expected {[HEAD]}')
        with self._lock:
            before = self._layer.state()
            self._layer.load(layers[HEAD])
            delta = self._layer.delta()
            size, (lost, new) = self._objective.size(delta), self._learner.damage(delta)
            limits = self._settings
            if size > 1.001 * limits.max_norm or lost > limits.max_lost or new > limits.max_new:
                self._layer.load(before)
                raise ValueError(f'adaptation: what was saved changes logits by {size:.2f} (at '
                                 f'most {limits.max_norm}), loses {lost:.1%} of the reference\'s events '
                                 f'and invents {new:.1%}: it is not used')
            self._clear()
            self._put()
            self._centre = self._consolidated = self._delta

    def status(self) -> dict[str, float]:
        """Return for diagnostics: norm and drift in logits, updates, what was refused, age."""
        with self._lock:
            age = -1.0 if self.last_consolidation is None else (
                self.clock() - self.last_consolidation)
            learnt = sum(self.counts[kind] for kind in ('rejected', 'confirmed', 'missed'))
            return {'norm': self._objective.size(self._delta), 'updates': learnt,
                    'trust': self.trusted,
                    'drift': self._objective.size(self._delta - self._consolidated),
                    'replay': len(self._examples), 'seconds_since_consolidation': age,
                    **{name: self.counts[name] for name in (
                        'rolled_back', 'too_many', 'unknown', 'empty')}}


def adapted(frozen: dict[str, np.ndarray], delta: np.ndarray) -> dict[str, np.ndarray]:
    """Return head weights (K + 1, D) and bias (K + 1,) with a change (D + 1, K) added."""
    weight, bias = (frozen[name].copy() for name in WEIGHTS)
    classes = delta.shape[1]
    weight[:classes] += delta[:-1].T
    bias[:classes] += np.float32(UNIT) * delta[-1]
    return dict(zip(WEIGHTS, (weight, bias)))
