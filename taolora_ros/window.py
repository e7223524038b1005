"""Windows cut from a segment: what the engine reads, and what is needed to decide its tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from taolora_ros.anomaly import measured, statistics
from taolora_ros.features import history_length, normalise, trace
from taolora_ros.gate import Gate, dilate, token_flags
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec
from taolora_ros.stream import Rows, Segment

if TYPE_CHECKING:  # most streams need none
    from taolora_ros.adaptation.router import RouterGate

GAP_MARGIN = 0.2  # s: a step that a bridged gap leaves behind rings that long in the filters
IN_SIGHT = 0.75   # of a window: a skipping one leaves its oldest quarter as context


@dataclass(frozen=True)
class Window:
    """One window to be scored, and what is needed to decide its tokens.

    ``features`` (L, F) float32 normalised and ``gate`` (T,) bool are for the engine. The window
    ends before sample ``end`` of the segment that began at ``start_ns``; ``stamp_ns`` is that
    moment. ``valid`` (T,) is False near bridged gaps; ``final`` when the segment ends here.
    ``trace`` (m,) is that of ``Tokens``.
    ``statistics`` (3, F) are those of its newest quarter, see anomaly.py.
    """

    features: np.ndarray
    gate: np.ndarray
    valid: np.ndarray
    statistics: np.ndarray
    trace: np.ndarray
    start_ns: int
    stamp_ns: int
    end: int
    final: bool
    settings: Settings


class Track:
    """How far one segment has been turned into windows."""

    def __init__(self, spec: ModelSpec, segment: Segment):
        self.spec = spec
        self.segment = segment
        self.flags = Rows((), np.bool_)  # of the gate, one for each complete patch
        self.learned: Rows | None = None  # likewise of the router, while it is asked for
        self.gated = 0                   # samples that both have seen
        self.last = 0                    # end of the last window, 0 before the first
        self.covered = 0.0               # position up to which windows decide tokens

    def use_router(self, router: RouterGate | None) -> None:
        """Let ``router`` begin with the oldest whole patch that is kept, and judge up to now."""
        self.learned = None
        if router is None:
            return
        patch = self.spec.patch
        first = -(-self.segment.features.first // patch)
        router.reset()
        self.learned = Rows((), np.bool_, first)
        self.learned.append(router.push(self.segment.features.get(first * patch, self.gated)))

    def grow(self, gate: Gate, router: RouterGate | None) -> None:
        """Judge what the segment has grown by."""
        features = self.segment.features.get(self.gated)
        self.flags.append(gate.push(features))
        if router:
            self.learned.append(router.push(features))
        self.gated = len(self.segment)

    def next_end(self, hop: int) -> int:
        """Return where the next window ends; the first one may be half empty."""
        return self.last + hop if self.last else (self.spec.window + 1) // 2

    def far_end(self, hop: int) -> int:
        """Return the last end there is by which every undecided token still has context."""
        first = self.next_end(hop)
        limit = min(len(self.segment), int(self.covered + IN_SIGHT * self.spec.window))
        return first + max(limit - first, 0) // hop * hop

    def due(self, hop: int) -> bool:
        """Tell whether there is a window to cut."""
        return self.segment.closed or self.next_end(hop) <= len(self.segment)

    def cut(self, end: int, settings: Settings, final: bool = False) -> Window:
        """Return the window that ends before sample ``end``; forget what no later one needs."""
        spec, segment = self.spec, self.segment
        first = max(end - history_length(spec), 0)
        history = segment.features.get(first, end).copy()  # its place is used again
        newest = max(end - spec.window // 4, 0)
        stats = statistics(measured(spec, segment.features.get(newest, end),
                                    segment.values.get(newest, end)))
        window = Window(normalise(spec, history), self._gate(end, settings.gate), self._valid(end),
                        stats, trace(spec, history), segment.start_ns, segment.time_ns(end), end,
                        final, settings)
        self.last = end
        self.covered = max(self.covered, end - settings.delay * spec.rate)
        # a patch more than windows read: a router that starts now begins at a patch they all hold
        segment.release(end - history_length(spec) - spec.patch)
        self.flags.release((end - spec.window) // spec.patch)
        if self.learned is not None:
            self.learned.release((end - spec.window) // spec.patch)
        return window

    def _gate(self, end: int, how: str) -> np.ndarray:
        """Return the gate (T,) of the window that ends before ``end``; ``how`` as in Settings."""
        if how in ('open', 'closed'):
            return np.full(self.spec.tokens, how == 'open')
        flags = self.learned if how == 'learned' else self.flags
        return token_flags(self.spec, flags.get(flags.first), flags.first, end)

    def _valid(self, end: int) -> np.ndarray:
        """Return which tokens (T,) of a window are not near a bridged gap."""
        spec = self.spec
        bridged = np.zeros(spec.window, bool)
        bridged[max(spec.window - end, 0):] = ~self.segment.valid.get(
            max(end - spec.window, 0), end)
        return ~dilate(bridged.reshape(spec.tokens, spec.patch).any(axis=1), gap_margin(spec))


def gap_margin(spec: ModelSpec) -> int:
    """Return how many tokens on both sides of a bridged gap may not start an event."""
    return max(round(GAP_MARGIN * spec.rate / spec.patch), 1)
