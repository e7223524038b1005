"""Random training windows, drawn and augmented in batches on the training device.

    B windows    L samples a window    F features    T tokens    S event slots a window

A window is placed by its last sample and a time scale; its samples are interpolated from the
corpus at those instants, so that stretching, cutting and padding need no copy of the data.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from taolora_ros.features import ECG_CLIP
from taolora_ros.spec import OFFSET_MARGIN, ModelSpec
from taolora_ros.training.corpus import IGNORE, Corpus
from taolora_ros.training.disturb_ecg import EcgDisturbance, disturb_ecg, reshape_beats
from taolora_ros.training.disturb_imu import ImuDisturbance, disturb_imu
from taolora_ros.training.draws import Draws
from taolora_ros.training.implants import Donor, implant

SLOTS = 6                     # beats a second of a window can hold
FRESH = 0.06                  # share of windows whose signal has only just begun
FALL_POSITIVE = (-0.5, 0.75)  # s around the impact that are "fall"
FALL_IGNORED = (-1.0, 3.0)    # s around the impact that no loss counts otherwise


@dataclass
class Batch:
    """Windows (B, L, F), gates (B, T) bool, classes (B, T) int64 and offsets (B, T)."""

    windows: Tensor
    gates: Tensor
    classes: Tensor
    offsets: Tensor


@dataclass
class Moments:
    """What windows are aimed at, (n,) each: its recording, its row, and how often it is drawn."""

    recording: Tensor
    at: Tensor
    weight: Tensor


class WindowSampler:
    """Draw batches from a corpus; half of the windows lie around a rare event.

    Of the others a part ``hard_share`` lies around ``hard`` moments, once these are mined.
    """

    def __init__(self, spec: ModelSpec, corpus: Corpus, device: torch.device,
                 generator: torch.Generator, augment: bool = True):
        self.spec, self.device, self.augment = spec, device, augment
        self.random = generator
        self.draws = Draws(device, generator)
        self.how = ImuDisturbance() if spec.kind == 'imu' else EcgDisturbance()
        self.features = torch.as_tensor(corpus.features, device=device)
        self.scale = torch.as_tensor(corpus.scale, device=device)
        self.gate = torch.as_tensor(corpus.gate, device=device)
        self.masked = torch.as_tensor(corpus.masked, device=device)
        self.start = torch.as_tensor(corpus.start, device=device)
        self.stop = torch.as_tensor(corpus.stop, device=device)
        self.slots = round(SLOTS * spec.window / spec.rate)
        pad = np.full(self.slots, np.inf)  # so that reading S events from any place stays inside
        self.partner = torch.as_tensor(corpus.partner, device=device)
        self.event_at = torch.as_tensor(np.concatenate([corpus.event_at, pad]), device=device)
        self.event_class = torch.as_tensor(
            np.concatenate([corpus.event_class, np.full(self.slots, IGNORE)]), device=device)
        self.event_recording = torch.as_tensor(corpus.event_recording, device=device)
        if not len(corpus.event_at):
            raise ValueError('training data: no annotated event')
        self.recording_weight = torch.as_tensor(_even(corpus.group, corpus.weight), device=device)
        rarity = self._rarity(corpus)
        self.events = Moments(self.event_recording, self.event_at[:len(rarity)],
                              torch.as_tensor(rarity, device=device))
        self.hard, self.hard_share = None, 0.0
        if spec.kind == 'ecg':
            donors = rarity * (corpus.event_class == spec.classes.index('V'))
            self.donor_weight = torch.as_tensor(donors, device=device)
            self.how = replace(self.how, implanted=self.how.implanted * bool(donors.any()))

    def _rarity(self, corpus: Corpus) -> np.ndarray:
        """Return how often to aim at each event (E,): rare classes first, recordings evenly."""
        if self.spec.kind == 'imu':
            return np.ones(len(corpus.event_at))
        wanted = {'V': 0.7, 'S': 0.25, 'F': 0.05}
        weight = np.zeros(len(corpus.event_at))
        for name, share in wanted.items():
            hit = corpus.event_class == self.spec.classes.index(name)
            counts = np.bincount(corpus.event_recording[hit], minlength=len(corpus.start))
            each = corpus.weight[corpus.event_recording[hit]]
            each = each / np.sqrt(counts[corpus.event_recording[hit]])  # not by beat nor record
            weight[hit] = share * each / max(each.sum(), 1e-9)
        return weight if weight.sum() else np.ones(len(weight))

    def draw(self, batch: int, aim: float = 0.5) -> Batch:
        """Return one batch of fresh windows, a share ``aim`` of them around a rare event."""
        aimed = round(batch * aim)
        hard = round((batch - aimed) * self.hard_share)
        recording = torch.multinomial(self.recording_weight, batch, True, generator=self.random)
        first = self.start[recording] + self.spec.patch
        end = first + self.draws.uniform(batch) * (self.stop[recording] - first)
        for place, moments in ((slice(0, aimed), self.events),
                               (slice(aimed, aimed + hard), self.hard)):
            if place.start < place.stop:
                recording[place], end[place] = self._aim(moments, place.stop - place.start)
        first, last = self.start[recording] + self.spec.patch, self.stop[recording]
        end = torch.minimum(torch.maximum(end.round(), first), last)   # (B,) exclusive
        stretch = torch.ones(batch, device=self.device, dtype=torch.float64)
        if self.augment:
            low, high = self.how.slowest, self.how.fastest
            change = low + (high - low) * self.draws.uniform(batch)
            stretch = torch.where(self.draws.chance(batch, 0.7), change, stretch)
        return self.cut(recording, end.double(), stretch)

    def _aim(self, moments: Moments, count: int) -> tuple[Tensor, Tensor]:
        """Return recording and end (count,) of windows with one of ``moments`` somewhere in."""
        chosen = torch.multinomial(moments.weight, count, True, generator=self.random)
        return (moments.recording[chosen],
                (moments.at[chosen] + self.draws.uniform(count) * self.spec.window).float())

    def cut(self, recording: Tensor, end: Tensor, stretch: Tensor) -> Batch:
        """Interpolate the windows that end at row ``end`` (B,) and label their tokens."""
        length = self.spec.window
        begin = self.start[recording].double()
        if self.augment:  # now and then the signal has only just begun
            fresh = end - stretch * length * (0.3 + 0.7 * self.draws.uniform(len(end)))
            new = self.draws.chance(len(end), FRESH)
            begin = torch.where(new, torch.maximum(fresh, begin), begin)
        sample = torch.arange(length, device=self.device, dtype=torch.float64) + 0.5
        at = end[:, None] - (length - sample) * stretch[:, None] - 0.5          # (B, L) rows
        top = (self.stop[recording] - 1).double()[:, None]
        at = torch.minimum(torch.maximum(at, begin.ceil()[:, None]), top)
        low = at.floor().long()
        part = (at - low).float()[..., None]
        high = torch.minimum(low + 1, top.long())
        windows = self.features[low] * (1 - part) + self.features[high] * part   # (B, L, F)
        windows = windows / self.scale[end.long() - 1][:, None, None]
        gates = self.gate[low].view(len(end), self.spec.tokens, -1).any(-1)      # (B, T)
        gates = dilate(gates, self.spec.gate.dilation)
        if self.spec.kind == 'imu':
            classes, offsets = self._label_falls(recording, begin, end, stretch)
            if self.augment:
                windows = disturb_imu(windows, self.draws, self.how)
            return Batch(windows, gates, classes, offsets)
        beats = self._beats(begin, end, stretch)
        if self.augment:
            windows, beats = self._disturb_ecg(windows, beats, low, recording, end)
        classes, offsets = self._label_beats(*beats)
        hidden = self.masked[low].view(len(end), self.spec.tokens, -1).any(-1)
        classes = torch.where(hidden, IGNORE, classes)
        return Batch(windows.clamp(-ECG_CLIP, ECG_CLIP), gates, classes, offsets)

    def _disturb_ecg(self, windows: Tensor, beats: tuple[Tensor, Tensor, Tensor], low: Tensor,
                     recording: Tensor, end: Tensor) -> tuple[Tensor, tuple]:
        """Return other people's windows and beats: see ``EcgDisturbance``."""
        rate, how = self.spec.rate, self.how
        partner = self.partner[recording]                                        # rows away
        other = self.features[low + partner[:, None]] / self.scale[
            end.long() - 1 + partner][:, None, None]
        windows = reshape_beats(windows, other, rate, self.draws, how)
        if how.implanted:
            place, label, inside = beats
            windows, place, label = implant(windows, place, label, inside, self._donor(recording),
                                            self.spec.classes, rate, self.draws, how.implanted)
            beats = place, label, inside & (place >= 0)
        return disturb_ecg(windows, rate, self.draws, how), beats

    def _donor(self, recording: Tensor) -> Donor:
        """Return a ventricular beat for each window, or a random one of its own ``recording``."""
        batch = len(recording)
        own = self.draws.chance(batch, self.how.own)
        first = torch.searchsorted(self.event_recording, recording)
        last = torch.searchsorted(self.event_recording, recording, right=True)
        mine = (first + self.draws.uniform(batch) * (last - first)).long()
        event = torch.multinomial(self.donor_weight, batch, True, generator=self.random)
        event = torch.where(own, torch.minimum(mine, last - 1), event)
        recording = self.event_recording[event]
        peak = self.event_at[event][:, None]
        pace = torch.exp(0.15 * self.draws.normal(batch, 1)).double()
        pace = torch.where(own[:, None], 1.0, pace)
        start, stop = self.start[recording][:, None], self.stop[recording][:, None] - 1
        scale = self.scale[peak.long().clamp(max=len(self.scale) - 1)]

        def signal(since: Tensor) -> Tensor:
            row = (peak + since.double() * pace - 0.5).round().long()
            return self.features[torch.minimum(torch.maximum(row, start), stop), 0] / scale

        return Donor(signal, self.event_class[event][:, None], own[:, None])

    def _beats(self, begin: Tensor, end: Tensor, stretch: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return place in the window (samples), class and whether it is inside: (B, S) each."""
        oldest = torch.maximum(end - stretch * self.spec.window, begin)
        slot = torch.searchsorted(self.event_at, oldest)[:, None] + torch.arange(
            self.slots, device=self.device)                                      # (B, S)
        slot = slot.clamp(max=len(self.event_at) - 1)
        at, label = self.event_at[slot], self.event_class[slot]
        place = self.spec.window - (end[:, None] - at) / stretch[:, None]
        inside = (at < end[:, None]) & (place >= 0)
        return torch.where(inside, place, 0.0), label, inside

    def _label_beats(self, place: Tensor, label: Tensor, inside: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes (B, T) and offsets (B, T) of the tokens that see the beats (B, S)."""
        batch, tokens = len(place), self.spec.tokens
        place = place / self.spec.patch
        classes = torch.zeros(batch, tokens + 1, dtype=torch.long, device=self.device)
        offsets = torch.zeros(batch, tokens + 1, device=self.device)
        for nudge in (-OFFSET_MARGIN, OFFSET_MARGIN, 0.0):  # its own patch has the last word
            token = (place + nudge).floor()
            offset = (place - token).float()
            token = torch.where(inside & (token >= 0), token.clamp(0, tokens), tokens).long()
            classes.scatter_(1, token, label)                                    # T: thrown away
            offsets.scatter_(1, token, offset)
        return classes[:, :tokens], offsets[:, :tokens]

    def _label_falls(self, recording: Tensor, begin: Tensor, end: Tensor, stretch: Tensor
                     ) -> tuple[Tensor, Tensor]:
        """Mark tokens near the impact of their recording as falls, and those around as ignored."""
        tokens, rate = self.spec.tokens, self.spec.rate
        index = torch.searchsorted(self.event_recording, recording)
        known = index < len(self.event_recording)
        index = index.clamp(max=len(self.event_recording) - 1)
        known &= self.event_recording[index] == recording
        known &= self.event_at[index] >= begin  # not cut away
        impact = torch.where(known, self.event_at[index], float('inf'))          # (B,)
        centre = (torch.arange(tokens, device=self.device) + 0.5) * self.spec.patch
        at = end[:, None] - (self.spec.window - centre) * stretch[:, None]       # (B, T)
        since = (at - impact[:, None]) / rate / stretch[:, None]
        classes = torch.zeros(at.shape, dtype=torch.long, device=self.device)
        near = (since > FALL_IGNORED[0]) & (since < FALL_IGNORED[1])
        classes = torch.where(near, IGNORE, classes)
        fall = (since > FALL_POSITIVE[0]) & (since < FALL_POSITIVE[1])
        return torch.where(fall, 1, classes), torch.zeros(at.shape, device=self.device)


def dilate(gates: Tensor, reach: int) -> Tensor:
    """Open ``reach`` more tokens on both sides of every open one; gates (B, T) bool."""
    if reach == 0:
        return gates
    return torch.nn.functional.max_pool1d(
        gates[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def _even(group: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return sampling weights (R,) that give every group the same share."""
    _, member = np.unique(group, return_inverse=True)
    return weight / np.bincount(member, weights=weight)[member]
