"""Made-up recordings with exact annotations, for the demo and for tests without real data.

Nothing here was recorded, and no figure of a model may be quoted from it. What is modelled:

IMU at the waist, x forward, y left, z up (REP-103), at rest +9.81 m/s^2 on z (REP-145). A scene
is a row of parts; each gives the body's acceleration in the world and its orientation, from
which the sensor reads R^T (a + g) and the rate of turn of the same R, so both always agree.

* fall: balance is lost for 0.3 s, then 0.2-0.45 s of nearly free fall (0.05-0.4 g) while the
  trunk turns 75-105 degrees forward, backward or sideways; the ground stops it with two or three
  pulses of 20-60 ms within 0.12 s (4-10 g together), it rocks for half a second and lies still.
  The peak is the annotated time. Sizes follow 15 s falls of volunteers (SisFall, Sensors 2017).
* walk: 1.6-2.1 steps a second, heel strikes, sway at half that rate.
* sit: the trunk leans forward and back, a soft contact (below 2 g).
* jump: crouch, push, 0.25-0.45 s of true free fall and a landing of 3-6 g, but upright before
  and after: the hard negative.
* lie_down: the trunk turns 80-95 degrees within 2-3 s without an impact. get_up: the way back.
* stand: noise and slow sway.

ECG, one lead: every beat is a sum of Gaussian waves around its R peak (after McSharry et al.,
IEEE Trans Biomed Eng 2003, without the differential equation). Normal beats have P, Q, R, S, T;
ventricular ones come 25-45 % early, have no P, a broad QRS of 110-160 ms and an opposite T, and
are followed by a compensatory pause. Wander of the base line and white noise are added.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import gaussian_filter1d

from taolora_ros.recordings import Recording, save_ecg, save_imu

GRAVITY = 9.80665
ACC_NOISE, GYRO_NOISE = 0.15, 0.02  # m/s^2 and rad/s, one standard deviation
DEMO_SCENE = ('stand', 'walk', 'sit', 'stand', 'jump', 'walk', 'fall', 'get_up', 'walk', 'jump',
              'stand', 'fall', 'get_up', 'walk', 'lie_down', 'get_up', 'jump', 'walk', 'fall')
ACTIVITIES = ('walk', 'sit', 'jump', 'lie_down', 'stand')

# wave: (time after the R peak in s, width in s, height in mV)
NORMAL_WAVES = ((-0.17, 0.022, 0.12), (-0.028, 0.009, -0.12), (0.0, 0.0105, 1.1),
                (0.03, 0.0105, -0.25), (0.26, 0.045, 0.28))
VENTRICULAR_WAVES = ((-0.022, 0.03, 0.25), (0.0, 0.034, 1.45), (0.09, 0.032, -0.45),
                     (0.29, 0.06, -0.5))


@dataclass(frozen=True)
class Scene:
    """A continuous IMU signal of several parts.

    ``values`` (N, 6) m/s^2 and rad/s at ``rate`` Hz; ``parts`` are (start s, stop s, name);
    ``falls_s`` the times of the falls' impact peaks.
    """

    rate: float
    values: np.ndarray
    parts: tuple[tuple[float, float, str], ...]
    falls_s: tuple[float, ...]


def imu_scene(parts: tuple[str, ...] = DEMO_SCENE, seed: int = 0, rate: float = 100.0) -> Scene:
    """Return one after the other the ``parts``; raise ValueError naming an unknown one."""
    rng = np.random.default_rng(seed)
    angles = np.zeros(3)  # roll, pitch, yaw, carried from part to part
    tracks, bounds, impacts, start = [], [], [], 0
    for name in parts:
        if name not in _PARTS:
            raise ValueError(f'part: {name!r} is none of {", ".join(_PARTS)}')
        duration, motion = _PARTS[name]
        t = np.arange(round(duration * rng.uniform(0.9, 1.1) * rate)) / rate
        acc, turned, impact = motion(rng, t, angles)
        angles = turned[-1]
        tracks.append((acc, turned))
        bounds.append((start / rate, (start + len(t)) / rate, name))
        if impact is not None:
            impacts.append(start + round(impact * rate))
        start += len(t)
    values = _measure(rng, rate, *(np.concatenate(track) for track in zip(*tracks)))
    falls = tuple(_peak_near(values, index, rate) / rate for index in impacts)
    return Scene(rate, values, tuple(bounds), falls)


def imu_recording(part: str, seed: int = 0, rate: float = 100.0, gyro: bool = True,
                  subject: str = 'synthetic') -> Recording:
    """Return one recording of about 16 s with ``part`` between quieter parts, annotated."""
    scene = imu_scene(('walk', part, 'stand') if part != 'fall' else ('walk', part), seed, rate)
    values = scene.values.copy()
    if not gyro:
        values[:, 3:] = np.nan
    return Recording(
        name=f'{part}-{seed}', subject=subject, source='synthetic', kind='imu', rate=rate,
        values=values, is_fall=part == 'fall', code='F01' if part == 'fall' else 'D01',
        fall_time_s=scene.falls_s[0] if scene.falls_s else None, label=part)


def ecg_record(seconds: float = 60.0, seed: int = 0, rate: float = 360.0,
               veb_share: float = 0.1, noise: float = 0.02, name: str = 'synthetic') -> Recording:
    """Return a one-lead record in mV with ``veb_share`` of its beats ventricular, annotated."""
    rng = np.random.default_rng(seed)
    times, kinds = _rhythm(rng, seconds, veb_share)
    t = np.arange(round(seconds * rate)) / rate
    mv = 0.15 * np.sin(2 * np.pi * 0.23 * t + rng.uniform(0, 6)) + rng.normal(0, noise, len(t))
    gaps = np.diff(times, prepend=times[0] - 0.8, append=times[-1] + 0.8)
    for i, (time, kind) in enumerate(zip(times, kinds)):
        _add_beat(mv, t, rate, time, kind, gaps[i + 1], rng)
    return Recording(
        name=name, subject=name, source='synthetic', kind='ecg', rate=rate, values=mv[:, None],
        leads=('MLII',), beat_times_s=times, beat_aami=kinds)


def write_dataset(folder: str | Path, seed: int = 0, subjects: int = 2, records: int = 2) -> None:
    """Write IMU files of ``subjects`` and ECG ``records`` below ``folder`` in the .npz format."""
    folder = Path(folder)
    for kind in ('imu', 'ecg'):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    for s in range(subjects):
        save_imu(folder / 'imu' / f'S{s + 1}.npz', [
            imu_recording(part, 1000 * (seed + 1) + 100 * s + i, subject=f'S{s + 1}')
            for i, part in enumerate(('fall', 'fall', *ACTIVITIES))])
    for r in range(records):
        name = f'E{r + 1}'
        save_ecg(folder / 'ecg' / f'{name}.npz', ecg_record(120.0, seed * 100 + r, name=name))


def _measure(rng: np.random.Generator, rate: float, acc: np.ndarray, angles: np.ndarray
             ) -> np.ndarray:
    """Return what the sensor reads (N, 6) from world acceleration and angles, both (N, 3)."""
    rotation = _rotation(angles)  # (N, 3, 3), sensor to world
    force = np.einsum('nji,nj->ni', rotation, acc + [0, 0, GRAVITY])
    step = np.einsum('nji,njk->nik', rotation[:-1], rotation[1:])  # small turn, sensor frame
    turn = np.stack([step[:, 2, 1] - step[:, 1, 2], step[:, 0, 2] - step[:, 2, 0],
                     step[:, 1, 0] - step[:, 0, 1]], 1) * rate / 2
    turn = np.concatenate([turn[:1], turn])  # (N, 3)
    return np.hstack([force + rng.normal(0, ACC_NOISE, force.shape),
                      turn + rng.normal(0, GYRO_NOISE, turn.shape)])


def _rotation(angles: np.ndarray) -> np.ndarray:
    """Return Rz(yaw) Ry(pitch) Rx(roll) for angles (N, 3) as (N, 3, 3)."""
    (sr, sp, sy), (cr, cp, cy) = np.sin(angles).T, np.cos(angles).T
    return np.moveaxis(np.array([
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr]]), -1, 0)


def _peak_near(values: np.ndarray, index: int, rate: float) -> int:
    first = max(index - round(0.4 * rate), 0)
    part = values[first:index + round(0.4 * rate), :3]
    return first + int(np.argmax(np.linalg.norm(part, axis=1)))


def _ramp(t: np.ndarray, start: float, stop: float) -> np.ndarray:
    """Go from 0 to 1 between ``start`` and ``stop`` with no jump in rate."""
    x = np.clip((t - start) / (stop - start), 0, 1)
    return x * x * (3 - 2 * x)


def _pulse(t: np.ndarray, start: float, length: float, height: float) -> np.ndarray:
    x = (t - start) / length
    return np.where((x >= 0) & (x <= 1), height * np.sin(np.pi * np.clip(x, 0, 1)), 0.0)


def _tremor(rng: np.random.Generator, n: int, size: float, smooth: float = 12.0) -> np.ndarray:
    """Return smooth random movement (n, 3) of standard deviation ``size``."""
    noise = gaussian_filter1d(rng.normal(size=(n, 3)), smooth, axis=0, mode='nearest')
    return size * noise * np.sqrt(2 * smooth * np.sqrt(np.pi))


def _stand(rng, t, angles):
    return _tremor(rng, len(t), 0.1), angles + _settle(t) * _tremor(rng, len(t), 0.01, 50), None


def _settle(t: np.ndarray) -> np.ndarray:
    """Return an envelope (n, 1) that starts and ends at 0: parts join without a jump."""
    return (_ramp(t, 0, 0.3) * (1 - _ramp(t, t[-1] - 0.3, t[-1])))[:, None]


def _walk(rng, t, angles):
    phase = 2 * np.pi * rng.uniform(1.6, 2.1) * t + rng.uniform(0, 6)
    size = rng.uniform(1.5, 3.0)
    strike = np.exp(-12 * (1 - np.cos(phase))) * rng.uniform(1.5, 4.0)
    acc = np.stack([0.5 * size * np.sin(phase + 1), 0.5 * size * np.sin(phase / 2),
                    size * np.sin(phase) + strike - strike.mean()], 1)
    sway = np.stack([0.06 * np.sin(phase / 2), 0.04 * np.sin(phase),
                     0.1 * np.sin(phase / 2 + 1)], 1)
    acc += _tremor(rng, len(t), 0.4, 3)
    return _settle(t) * acc, angles + _settle(t) * sway, None


def _sit(rng, t, angles):
    middle, lean = t[-1] / 2, rng.uniform(0.35, 0.7)
    bend = _ramp(t, middle - 0.9, middle) - _ramp(t, middle, middle + 0.9)
    acc = _tremor(rng, len(t), 0.15)
    acc[:, 2] += (_pulse(t, middle - 0.5, 0.4, -rng.uniform(1.5, 3.5))
                  + _pulse(t, middle - 0.1, 0.15, rng.uniform(3.0, 7.0)))
    return acc, angles + np.outer(bend, [0, lean, 0]), None


def _jump(rng, t, angles):
    acc = _tremor(rng, len(t), 0.2)
    take_off, flight = t[-1] / 2, rng.uniform(0.25, 0.45)
    push = flight * GRAVITY / 2 / (0.3 * 2 / np.pi)  # its impulse gives the take-off speed
    landing = rng.uniform(0.08, 0.13)
    hit = min(flight * GRAVITY / 2 / (landing * 2 / np.pi) * 1.2, 5 * GRAVITY)
    acc[:, 2] += (_pulse(t, take_off - 0.65, 0.35, -0.5 * push)
                  + _pulse(t, take_off - 0.3, 0.3, push)
                  + _pulse(t, take_off + flight, landing, hit)
                  + _pulse(t, take_off + flight + landing, 0.25, 0.3 * push))
    acc[(t > take_off) & (t < take_off + flight)] += [0, 0, -GRAVITY]
    bend = _pulse(t, take_off - 0.65, 0.6, 0.3) + _pulse(t, take_off + flight - 0.05, 0.5, 0.3)
    return acc, angles + np.outer(bend, [0, 1, 0]), None


def _lie_down(rng, t, angles):
    slow = rng.uniform(2.0, 3.0)
    turned = np.outer(_ramp(t, 1.0, 1.0 + slow), _direction(rng) * rng.uniform(1.4, 1.65))
    acc = _tremor(rng, len(t), 0.25)
    acc[:, 2] += _pulse(t, 0.7 + slow, 0.3, rng.uniform(1.0, 3.0))
    return acc, angles + turned, None


def _get_up(rng, t, angles):
    up = _ramp(t, 1.0, t[-1] - 0.5)[:, None]
    return _tremor(rng, len(t), 0.5), angles * (1 - up) + up * [0, 0, angles[2]], None


def _direction(rng: np.random.Generator) -> np.ndarray:
    """Return which way the trunk turns: forward, backward, left or right, with a little twist."""
    turn = np.array([[0, 1, 0], [0, -1, 0], [1, 0, 0], [-1, 0, 0]], float)[rng.integers(4)]
    return turn + rng.uniform(-0.15, 0.15, 3)


def _fall(rng, t, angles):
    lost, drop = 1.0, rng.uniform(0.2, 0.45)
    ground = lost + 0.3 + drop
    acc = _tremor(rng, len(t), 0.15)
    stumble = _pulse(t, lost, 0.3, 1.0)[:, None] * _tremor(rng, len(t), 4.0, 4)
    falling = _ramp(t, lost + 0.15, lost + 0.35) - (t >= ground)
    acc += stumble - np.outer(falling, [0, 0, GRAVITY * rng.uniform(0.65, 0.95)])
    for _ in range(rng.integers(2, 4)):  # knee or hand, hip, trunk
        push = rng.normal(0, 0.35, 3) + [0, 0, 1]
        acc += np.outer(_pulse(t, ground + rng.uniform(0, 0.08), rng.uniform(0.02, 0.06),
                               GRAVITY * rng.uniform(2.5, 6.0)), push)
    after = np.clip(t - ground - 0.1, 0, None)
    acc[:, 2] += (after > 0) * 6 * np.exp(-after / 0.25) * np.sin(2 * np.pi * 5 * after)
    turned = np.outer(_ramp(t, lost + 0.1, ground + 0.15), _direction(rng) * rng.uniform(1.3, 1.8))
    turned += np.outer((after > 0) * np.exp(-after / 0.3) * np.sin(2 * np.pi * 2 * after),
                       rng.normal(0, 0.15, 3))
    return acc, angles + turned, ground + 0.05


# part: (usual length in s, function (rng, t, angles) -> acceleration, angles, impact s or None)
_PARTS = {'stand': (4.0, _stand), 'walk': (8.0, _walk), 'sit': (5.0, _sit), 'jump': (4.0, _jump),
          'lie_down': (6.0, _lie_down), 'get_up': (5.0, _get_up), 'fall': (8.0, _fall)}


def _rhythm(rng: np.random.Generator, seconds: float, veb_share: float
            ) -> tuple[np.ndarray, np.ndarray]:
    """Return the times of beats and their classes N or V."""
    times, kinds, time = [], [], 0.4
    while time < seconds - 0.5:
        ventricular = len(times) > 0 and rng.random() < veb_share
        rr = 0.8 * (1 + 0.05 * np.sin(2 * np.pi * 0.25 * time)) + rng.normal(0, 0.01)
        # an early beat leaves the sinus clock alone: the pause after it compensates
        times.append(time - (rng.uniform(0.25, 0.45) * rr if ventricular else 0.0))
        kinds.append('V' if ventricular else 'N')
        time += rr
    return np.array(times), np.array(kinds)


def _add_beat(mv: np.ndarray, t: np.ndarray, rate: float, time: float, kind: str, rr: float,
              rng: np.random.Generator) -> None:
    """Add one beat's waves to ``mv`` in place; T waves move closer when the next beat is near."""
    waves = VENTRICULAR_WAVES if kind == 'V' else NORMAL_WAVES
    height = rng.normal(1, 0.03)
    width = rng.uniform(0.9, 1.15) if kind == 'V' else 1.0
    near = slice(max(int((time - 0.4) * rate), 0), int((time + 0.7) * rate))
    since = t[near] - time
    for shift, spread, size in waves:
        if shift > 0.2:
            shift *= min(np.sqrt(rr / 0.8), 1.0)
        mv[near] += height * size * np.exp(-0.5 * ((since - shift) / (spread * width)) ** 2)
