"""A stream of tokens with known truth and a head that is wrong about some of them: no network."""

import dataclasses
import threading

import numpy as np

from taolora_ros.adaptation.head import adapted
from taolora_ros.adaptation.reference import Reference, head_digest
from taolora_ros.adaptation.session import Session
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.decode import START, Event, Tokens
from taolora_ros.engine.interface import check_changes, differs
from taolora_ros.spec import ECG_BEATS, NetworkSpec

WIDTH = 23
SPEC = dataclasses.replace(ECG_BEATS, network=NetworkSpec(width=WIDTH))
STEP = 10 ** 9  # ns between two beats
N, V = 1, 3
SHIFT = 0.1     # logits: doubtful_shift of a world with a true event


class Head:
    """An engine of which only the head is there."""

    name, device = 'head', 'cpu'

    def __init__(self, weight, bias):
        self.weights = {'head.weight': weight, 'head.bias': bias}
        self.keeps_embedding, self.changes = False, 0
        self.lock = threading.Lock()

    def read_weights(self, *names):
        return {name: self.weights[name].copy() for name in names}

    def write_weights(self, changes):
        check_changes(changes, {name: w.shape for name, w in self.weights.items()})
        with self.lock:
            self.changes += differs(self.weights, changes)
            for name, value in changes.items():
                self.weights[name][:] = value

    def probability(self, x):
        logits = x @ self.weights['head.weight'][:-1].T + self.weights['head.bias'][:-1]
        e = np.exp(logits - logits.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)


class World:
    """Beats of three kinds: normal, ventricular, and odd normal ones that the head calls VEB."""

    def __init__(self, seed, **settings):
        self.rng = np.random.default_rng(seed)
        axes = np.linalg.qr(self.rng.standard_normal((WIDTH, WIDTH)))[0].astype(np.float32)
        axes *= np.float32(WIDTH ** 0.5)
        self.centres, self.own = axes[:len(SPEC.classes)], axes[-1]
        weight = np.zeros((len(SPEC.classes) + 1, WIDTH), np.float32)
        weight[:-1] = self.centres / 5
        self.engine = Head(weight, np.zeros(len(weight), np.float32))
        self.odd = 0.2 * self.centres[N] + 0.8 * self.centres[V] + 0.7 * self.own
        classes = self.rng.integers(0, len(SPEC.classes), 300)
        self.reference = Reference(self.draw(self.centres[classes]), classes, head_digest(weight))
        self.now, self.time, self.count = 0.0, 0, 0
        self.session = Session(SPEC, self.engine, self.reference, AdaptationSettings(
            **{'enabled': True, 'per_minute': 6000, **settings}), lambda: self.now)
        self.memory = self.session.memory('ecg')

    def draw(self, centres):
        noise = self.rng.standard_normal(np.shape(centres))
        return (centres + 0.35 * noise).astype(np.float32)

    def beat(self, kind):
        """Let one beat of a kind (N, V or 'odd') happen; return its id, called VEB or not."""
        centre = self.odd if kind == 'odd' else self.centres[kind]
        x = np.concatenate([self.draw(self.centres[:1]), self.draw(centre[None]),
                            self.draw(self.centres[:1])])
        self.time, self.count, self.now = self.time + STEP, self.count + 1, self.now + 1.0
        p = self.engine.probability(x)
        called = 'veb' if self.called(x[1:2])[0] else 'beat'
        event = Event(f'e{self.count}', called, 0.9, 1, START, self.time, self.time, self.time, 0.0)
        patch = SPEC.patch
        self.memory.decided(Tokens(
            self.time, np.array([-patch, 0.0, patch]), p, np.full(3, 0.5), np.zeros(3, bool),
            np.ones(3, bool), 0.5, 0.2, embedding=x), [event])
        return event.id, called

    def tell(self, name, correct):
        """Give feedback on an event, and wait until it is settled; return what became of it."""
        return self.settled(self.session.feedback(name, correct))

    def miss(self):
        """Report that the last beat was ventricular, and not found so; as ``tell``."""
        return self.settled(self.session.miss('ecg', self.time, 'veb'))

    def settled(self, outcome):
        return [outcome, *self.session.settle()][-1]

    def called(self, x):
        """Return which tokens (n, D) the head of now calls ventricular."""
        p = self.engine.probability(x)
        share = np.clip(p[:, 3] + 0.5 * p[:, 4], 1e-6, 1 - 1e-6)
        return np.log(share / (1 - share)) + SPEC.bias[1] >= 0

    def share_called(self, kind, count=400):
        """Return the share of fresh beats of a kind that are called ventricular."""
        centre = self.odd if kind == 'odd' else self.centres[kind]
        return float(self.called(self.draw(np.repeat(centre[None], count, 0))).mean())


def world_with_a_true_event():
    """Return a world in which one true event was confirmed, and the id of a false one."""
    world = World(23, doubtful_shift=SHIFT)
    for _ in range(6):
        world.beat(N)
    name, called = world.beat(V)
    while called != 'veb':
        name, called = world.beat(V)
    assert world.tell(name, True).learnt
    name, called = world.beat('odd')
    while called != 'veb':
        name, called = world.beat('odd')
    return world, name


def in_the_engine(world):
    """Tell whether the engine decides with exactly what the session says."""
    frozen, delta = world.session._head.frozen, world.session.delta
    return all((adapted(frozen, delta)[name] == world.engine.weights[name]).all()
               for name in frozen)
