"""Random training windows, drawn and augmented in batches on the training device.

    B windows    L samples a window    F features    T tokens    S event slots a window

A window is placed by its last sample and a time scale; its samples are interpolated from the
corpus at those instants, so that stretching, cutting and padding need no copy of the data.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from taolora_ros.features import ECG_CLIP, GYRO_SCALE, SCALE_BLOCK
from taolora_ros.spec import OFFSET_MARGIN, ModelSpec
from taolora_ros.training.corpus import IGNORE, Corpus

SLOTS = 48                    # beats one stretched window can hold
RESHAPE = (0.4, 0.3, 0.25)    # share of ECG windows with mixed leads, an echo, a turned phase
FALL_POSITIVE = (-0.5, 0.75)  # s around the impact that are "fall"
FALL_IGNORED = (-1.0, 3.0)    # s around the impact that no loss counts otherwise


@dataclass
class Batch:
    """Windows (B, L, F), gates (B, T) bool, classes (B, T) int64 and offsets (B, T)."""

    windows: Tensor
    gates: Tensor
    classes: Tensor
    offsets: Tensor


class WindowSampler:
    """Draw batches from a corpus; half of the windows lie around a rare event."""

    def __init__(self, spec: ModelSpec, corpus: Corpus, device: torch.device,
                 generator: torch.Generator, augment: bool = True):
        self.spec, self.device, self.augment = spec, device, augment
        self.random = generator
        self.features = torch.as_tensor(corpus.features, device=device)
        self.scale = torch.as_tensor(corpus.scale, device=device)
        self.gate = torch.as_tensor(corpus.gate, device=device)
        self.masked = torch.as_tensor(corpus.masked, device=device)
        self.start = torch.as_tensor(corpus.start, device=device)
        self.stop = torch.as_tensor(corpus.stop, device=device)
        pad = np.full(SLOTS, np.inf)  # so that reading S events from any place stays inside
        self.partner = torch.as_tensor(corpus.partner, device=device)
        self.event_at = torch.as_tensor(np.concatenate([corpus.event_at, pad]), device=device)
        self.event_class = torch.as_tensor(
            np.concatenate([corpus.event_class, np.full(SLOTS, IGNORE)]), device=device)
        self.event_recording = torch.as_tensor(corpus.event_recording, device=device)
        if not len(corpus.event_at):
            raise ValueError('training data: no annotated event')
        self.recording_weight = torch.as_tensor(_even(corpus.group, corpus.weight), device=device)
        self.event_weight = torch.as_tensor(self._rarity(corpus), device=device)

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
            each = each / np.sqrt(counts[corpus.event_recording[hit]])  # neither per beat nor record
            weight[hit] = share * each / max(each.sum(), 1e-9)
        return weight if weight.sum() else np.ones(len(weight))

    def draw(self, batch: int, aim: float = 0.5) -> Batch:
        """Return one batch of fresh windows, a share ``aim`` of them around a rare event."""
        length, aimed = self.spec.window, round(batch * aim)
        recording = torch.multinomial(self.recording_weight, batch, True, generator=self.random)
        first, last = self.start[recording] + self.spec.patch, self.stop[recording]
        end = first + self._uniform(batch) * (last - first)
        if aimed:
            event = torch.multinomial(self.event_weight, aimed, True, generator=self.random)
            recording[:aimed] = self.event_recording[event]
            first, last = self.start[recording] + self.spec.patch, self.stop[recording]
            end[:aimed] = self.event_at[event] + self._uniform(aimed) * length
        end = torch.minimum(torch.maximum(end.round(), first), last)   # (B,) exclusive
        stretch = torch.ones(batch, device=self.device, dtype=torch.float64)
        if self.augment:
            low, high = (0.85, 1.15) if self.spec.kind == 'imu' else (0.8, 1.25)
            change = low + (high - low) * self._uniform(batch)
            stretch = torch.where(self._chance(batch, 0.7), change, stretch)
        return self._cut(recording, end.double(), stretch)

    def _cut(self, recording: Tensor, end: Tensor, stretch: Tensor) -> Batch:
        """Interpolate the windows that end at ``end`` (B,) and label their tokens."""
        length = self.spec.window
        begin = self.start[recording].double()
        if self.augment:  # now and then the signal has only just begun
            fresh = end - stretch * length * (0.3 + 0.7 * self._uniform(len(end)))
            begin = torch.where(self._chance(len(end), 0.06), torch.maximum(fresh, begin), begin)
        sample = torch.arange(length, device=self.device, dtype=torch.float64) + 0.5
        at = end[:, None] - (length - sample) * stretch[:, None] - 0.5          # (B, L) rows
        top = (self.stop[recording] - 1).double()[:, None]
        at = torch.minimum(torch.maximum(at, begin.ceil()[:, None]), top)
        low = at.floor().long()
        part = (at - low).float()[..., None]
        high = torch.minimum(low + 1, top.long())
        windows = self.features[low] * (1 - part) + self.features[high] * part   # (B, L, F)
        windows = windows / self.scale[end.long() - 1][:, None, None]
        if self.augment and self.spec.kind == 'ecg':
            partner = self.partner[recording]                                    # rows away
            other = self.features[low + partner[:, None]] / self.scale[
                end.long() - 1 + partner][:, None, None]
            windows = self._reshape_beats(windows, other)
        gates = self.gate[low].view(len(end), self.spec.tokens, -1).any(-1)      # (B, T)
        gates = dilate(gates, self.spec.gate.dilation)
        classes, offsets = self._label(recording, begin, end, stretch)
        hidden = self.masked[low].view(len(end), self.spec.tokens, -1).any(-1)
        classes = torch.where(hidden, IGNORE, classes)
        if self.augment:
            windows = (self._disturb_imu if self.spec.kind == 'imu' else self._disturb_ecg)(windows)
        if self.spec.kind == 'ecg':
            windows = windows.clamp(-ECG_CLIP, ECG_CLIP)
        return Batch(windows, gates, classes, offsets)

    def _label(self, recording: Tensor, begin: Tensor, end: Tensor, stretch: Tensor
               ) -> tuple[Tensor, Tensor]:
        """Return classes (B, T) and offsets (B, T) of the windows' tokens."""
        batch, tokens, patch = len(end), self.spec.tokens, self.spec.patch
        oldest = torch.maximum(end - stretch * self.spec.window, begin)
        slot = torch.searchsorted(self.event_at, oldest)[:, None] + torch.arange(
            SLOTS, device=self.device)                                           # (B, S)
        slot = slot.clamp(max=len(self.event_at) - 1)
        at, label = self.event_at[slot], self.event_class[slot]
        if self.spec.kind == 'imu':
            return self._label_falls(recording, begin, end, stretch)
        place = (self.spec.window - (end[:, None] - at) / stretch[:, None]) / patch  # tokens
        inside = (at < end[:, None]) & (place >= 0)
        classes = torch.zeros(batch, tokens + 1, dtype=torch.long, device=self.device)
        offsets = torch.zeros(batch, tokens + 1, device=self.device)
        place = torch.where(inside, place, 0.0)
        for nudge in (-OFFSET_MARGIN, OFFSET_MARGIN, 0.0):  # the patch it lies in has the last word
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
        classes[near] = IGNORE
        classes[(since > FALL_POSITIVE[0]) & (since < FALL_POSITIVE[1])] = 1
        return classes, torch.zeros(at.shape, device=self.device)

    def _reshape_beats(self, x: Tensor, other: Tensor) -> Tensor:
        """Give some ECG windows (B, L, 1) beats of another shape, the same for all of a window.

        The two leads are mixed as if an electrode sat elsewhere, an echo widens and notches every
        QRS complex as a bundle branch block does, and a constant phase shift turns peaks into
        slopes: what is ventricular must then be told from the other beats, not by heart.
        """
        batch, length = x.shape[:2]
        angle = 3.1416 * (2 * self._uniform(batch, 1, 1) - 1)
        mixed = self._chance(batch, RESHAPE[0])[:, None, None]
        x = torch.where(mixed, angle.cos() * x + angle.sin() * other, x)
        lag = (2 + 9 * self._uniform(batch, 1)).long()
        source = (torch.arange(length, device=self.device) - lag).clamp(min=0)   # (B, L)
        echo = x.gather(1, source[..., None]) * (1.8 * self._uniform(batch, 1, 1) - 0.9)
        echoed = self._chance(batch, RESHAPE[1])[:, None, None]
        x = torch.where(echoed, x + echo, x)
        turn = 2.4 * (self._uniform(batch, 1, 1) - 0.5)
        spectrum = torch.fft.rfft(x, dim=1) * torch.polar(torch.ones_like(turn), turn)
        turned = self._chance(batch, RESHAPE[2])[:, None, None]
        x = torch.where(turned, torch.fft.irfft(spectrum, n=length, dim=1), x)
        block = round(SCALE_BLOCK * self.spec.rate)
        whole = length // block * block
        tops = x[:, -whole:].abs().view(batch, -1, block).amax(2)                # (B, blocks)
        rescaled = x / tops.median(1).values.clamp_min(0.05)[:, None, None]
        return torch.where(mixed | echoed | turned, rescaled, x)

    def _disturb_ecg(self, x: Tensor) -> Tensor:
        """Vary polarity, gain, wander, noise and bandwidth of ECG windows (B, L, 1)."""
        batch, length = x.shape[:2]
        time = torch.arange(length, device=self.device) / self.spec.rate
        x = torch.where(self._chance(batch, 0.15)[:, None, None], -x, x)
        x = x * torch.exp(0.25 * self._normal(batch, 1, 1))
        smooth = self._chance(batch, 0.2)[:, None, None]
        x = torch.where(smooth, _smooth(x, 3), x)
        turns = 0.15 + 0.5 * self._uniform(batch)[:, None]
        wander = torch.sin(6.2832 * (turns * time + self._uniform(batch)[:, None]))
        x = x + (self._strength(batch, 0.3, 0.3)[:, None] * wander)[..., None]
        white = self._normal(batch, length, 1)
        x = x + self._strength(batch, 0.5, 0.12)[:, None, None] * white
        slow = _smooth(_smooth(self._normal(batch, length, 1), 15), 15) * 15.0   # electrode motion
        x = x + self._strength(batch, 0.3, 0.35)[:, None, None] * slow / slow.std(dim=1, keepdim=True)
        mains = torch.sin(6.2832 * ((48 + 14 * self._uniform(batch))[:, None] * time))
        return x + (self._strength(batch, 0.1, 0.1)[:, None] * mains)[..., None]

    def _disturb_imu(self, x: Tensor) -> Tensor:
        """Turn, scale, blur, clip and drop parts of IMU windows (B, L, 8)."""
        batch = len(x)
        acc, gyro = x[..., :3], x[..., 4:7]
        turn = torch.where(self._chance(batch, 0.6)[:, None, None], self._rotations(batch),
                           torch.eye(3, device=self.device))
        acc, gyro = acc @ turn, gyro @ turn
        acc = acc * torch.exp(0.06 * self._normal(batch, 1, 1))
        gyro = gyro * torch.exp(0.12 * self._normal(batch, 1, 1))
        smooth = self._chance(batch, 0.25)[:, None, None]
        acc = torch.where(smooth, _smooth(acc, 3), acc)
        acc = acc + self._strength(batch, 0.5, 0.03)[:, None, None] * self._normal(*acc.shape)
        gyro = gyro + self._strength(batch, 0.5, 0.1 / GYRO_SCALE)[:, None, None] * self._normal(
            *gyro.shape)
        rail = torch.where(self._chance(batch, 0.3), 4.0, 16.0)[:, None, None]
        acc = acc.clamp(-rail, rail)
        gyro = gyro * (~self._chance(batch, 0.4))[:, None, None]
        return torch.cat([acc, acc.norm(dim=-1, keepdim=True) - 1,
                          gyro, gyro.norm(dim=-1, keepdim=True)], dim=-1)

    def _rotations(self, batch: int) -> Tensor:
        """Return uniformly random rotations (B, 3, 3) from random unit quaternions."""
        w, i, j, k = torch.nn.functional.normalize(self._normal(batch, 4), dim=1).unbind(1)
        return torch.stack([
            1 - 2 * (j * j + k * k), 2 * (i * j - k * w), 2 * (i * k + j * w),
            2 * (i * j + k * w), 1 - 2 * (i * i + k * k), 2 * (j * k - i * w),
            2 * (i * k - j * w), 2 * (j * k + i * w), 1 - 2 * (i * i + j * j)], 1).view(-1, 3, 3)

    def _uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self.device, generator=self.random)

    def _normal(self, *shape: int) -> Tensor:
        return torch.randn(shape, device=self.device, generator=self.random)

    def _chance(self, batch: int, share: float) -> Tensor:
        return self._uniform(batch) < share

    def _strength(self, batch: int, share: float, most: float) -> Tensor:
        """Return a random amplitude (B,) up to ``most``, zero for all but ``share`` of windows."""
        return self._chance(batch, share) * self._uniform(batch) * most


def dilate(gates: Tensor, reach: int) -> Tensor:
    """Open ``reach`` more tokens on both sides of every open one; gates (B, T) bool."""
    if reach == 0:
        return gates
    return torch.nn.functional.max_pool1d(
        gates[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def _smooth(x: Tensor, width: int) -> Tensor:
    """Average windows (B, L, C) over ``width`` (odd) samples, ends held."""
    held = torch.nn.functional.pad(x.transpose(1, 2), (width // 2, width // 2), 'replicate')
    return torch.nn.functional.avg_pool1d(held, width, 1).transpose(1, 2)


def _even(group: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Return sampling weights (R,) that give every group the same share."""
    _, member = np.unique(group, return_inverse=True)
    return weight / np.bincount(member, weights=weight)[member]
