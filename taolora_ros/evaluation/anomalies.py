"""Judge the anomaly score: false alarms on healthy recordings, and how soon faults are found.

Each stream is calibrated on its beginning and judged on the rest (trials.py).

An alarm is the start of a run of anomalous windows. Alarms on healthy recordings are false,
arrhythmias and stumbles among them. For the delays a fault starts at random moments of the judged
part. It is found when a window is anomalous that is not without the fault, within ``WITHIN``
seconds; the culprit is the channel with the highest score in that window.
"""

from __future__ import annotations

import multiprocessing
import signal
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np

from taolora_ros.detector import BATCH, PIECE, Detector
from taolora_ros.evaluation.beats import ratio
from taolora_ros.evaluation.detection import Candidate
from taolora_ros.evaluation.spread import PROCESSES
from taolora_ros.evaluation.falls import poisson_upper
from taolora_ros.evaluation.faults import FAULTS, Fault, inject
from taolora_ros.evaluation.trials import Trial, find_trials, read_trial
from taolora_ros.samples import NANOSECONDS, Samples
from taolora_ros.spec import ModelSpec
from taolora_ros.worker import split

# The constants of anomaly.py were chosen on these: their figures are reported apart.
CHOSEN_ON = frozenset((
    'ardrone_imu', 'phidgets_imu_upside_down', 'SA01', 'SA07', 'SA12', 'SA17', 'SA23', 'SE05',
    'SE11', 'U01', 'U07', 'U14', 'U27', '101', '109', '115', '119', '201', '207', '215', '230'))
PLACES = 2           # moments of each stream at which each fault starts
BEFORE, WITHIN = 15.0, 30.0  # s that are played before a fault starts, and after it
STEADY = 10.0        # s on both sides of that moment without a border between pieces


def play(detectors: list[Detector], engine, samples: Samples) -> tuple[list[list], float]:
    """Run ``samples`` through the first detector, let all of them judge its windows.

    Return the anomalies that each reports, and for how many seconds there was a score.
    """
    first, told, windows = detectors[0], [[] for _ in detectors], 0
    pieces = [samples[i:i + PIECE] for i in range(0, len(samples), PIECE)]
    for piece in [*pieces, None]:
        if piece is None:
            first.close()
        else:
            first.push(piece)
        while due := first.due(BATCH):
            scores = engine.run(np.stack([window.features for window in due]),
                                np.stack([window.gate for window in due]))
            for i, window in enumerate(due):
                for detector, results in zip(detectors, told):
                    results += [result for result in detector.absorb(
                        [window], split(scores, i, i + 1)) if hasattr(result, 'is_anomalous')]
                windows += bool(first.anomalies.scores.any())
    return told, windows * first.settings.hop


def judge(trial: Trial, spec: ModelSpec, engine, settings) -> dict:
    """Return the figures of one stream; raise ValueError when it is too short to calibrate on."""
    detectors = [Detector(spec, engine, settings) for _ in range(2)]  # the second: uncalibrated
    cut = int(np.searchsorted(trial.samples.stamps, trial.split_ns))
    play(detectors, engine, trial.samples[:cut])
    detectors[0].calibrate()
    usual = detectors[0].anomalies.usual
    (told, untold), seconds = play(detectors, engine, trial.samples[cut:])
    result = {'name': trial.name, 'source': trial.source, 'kind': trial.kind,
              'chosen_on': trial.name in CHOSEN_ON, 'hours': seconds / 3600,
              'false_alarms': _starts(told), 'uncalibrated_false_alarms': _starts(untold),
              'anomalous_fraction': ratio(sum(a.is_anomalous for a in told)
                                          * detectors[0].settings.hop, seconds), 'faults': []}

    def anomalous(values: np.ndarray) -> list[dict]:
        """Return {stamp: worst channel} of the anomalous windows, calibrated and not."""
        pair = [Detector(spec, engine, settings) for _ in range(2)]
        pair[0].anomalies.usual = usual
        return [{a.stamp_ns: max(a.channel_scores, key=a.channel_scores.get)
                 for a in found if a.is_anomalous}
                for found in play(pair, engine, Samples(part.stamps, values))[0]]

    rng = np.random.default_rng(zlib.crc32(trial.name.encode()))
    for start in _places(trial, rng):
        near = trial.samples.stamps - start
        part = trial.samples[int(np.searchsorted(near, -BEFORE * NANOSECONDS)):
                             int(np.searchsorted(near, WITHIN * NANOSECONDS))]
        healthy = anomalous(part.values)
        for fault in FAULTS:
            column = spec.channels.index(str(rng.choice(fault.channels))) \
                if fault.kind == spec.kind else None
            if column is not None and np.isfinite(part.values[:, column]).all():
                faulty = inject(fault, column, part.stamps, part.values, start, rng)
                result['faults'].append(_found(fault, spec.channels[column], start, healthy,
                                               anomalous(faulty)))
    return result


def _starts(anomalies: list) -> int:
    """Return how many runs of anomalous windows begin."""
    states = [False, *(anomaly.is_anomalous for anomaly in anomalies)]
    return sum(now and not before for before, now in zip(states, states[1:]))


def _places(trial: Trial, rng: np.random.Generator) -> list[int]:
    """Return moments (ns) for faults, in the middle of a piece where there are long ones."""
    stamps = trial.samples.stamps
    steady = round(STEADY * NANOSECONDS)
    judged = stamps[(stamps > trial.split_ns + steady) & (stamps < stamps[-1] - steady)]
    borders = stamps[1:][np.diff(stamps) > NANOSECONDS]
    after = np.searchsorted(borders, judged - steady)
    inside = judged[after == np.searchsorted(borders, judged + steady)]
    choice = inside if len(inside) else judged
    return rng.choice(choice, PLACES).tolist() if len(choice) else []


def _found(fault: Fault, channel: str, start: int, healthy: list[dict], faulty: list[dict]
           ) -> dict:
    """Return how long it took to find a fault, None when it was not, and what was blamed."""
    delays, blamed = [], []
    for without, with_it in zip(healthy, faulty):
        new = sorted(stamp for stamp in with_it if stamp >= start and stamp not in without)
        delays.append((new[0] - start) / NANOSECONDS if new else None)
        blamed.append(with_it[new[0]] if new else None)
    return {'fault': fault.name, 'channel': channel, 'delay_s': delays[0], 'blamed': blamed[0],
            'uncalibrated_delay_s': delays[1]}


def evaluate(data: str | Path, candidates: dict[str, Candidate], processes: int | None = None,
             only: frozenset[str] | None = None,
             progress: Callable[[int, int, str], None] = lambda *_: None) -> dict:
    """Return the figures of all streams below ``data``, ready for JSON.

    ``candidates`` holds the model for 'imu', for 'ecg' or both; ``only`` keeps the streams
    (subject, record or bag) named. Raise ValueError for data or models that cannot be used.
    """
    paths = find_trials(data, tuple(candidates))
    models = {kind: candidate.describe() for kind, candidate in candidates.items()}
    streams, skipped = [], {}
    judged = _judge_all(paths, candidates, processes or PROCESSES, only)
    for done, (path, outcome) in enumerate(judged, 1):
        if isinstance(outcome, str):
            skipped[str(path)] = outcome
        elif outcome:
            streams.append(outcome)
        progress(done, len(paths), path.name)
    if not streams:
        raise ValueError(f'{data}: no stream to judge: '
                         + ('; '.join(sorted(set(skipped.values()))) or 'none of those wanted'))
    streams.sort(key=lambda stream: (stream['kind'], stream['source'], stream['name']))
    trained_on = {kind: model.pop('trained_on') for kind, model in models.items()}
    return {'groups': summarise(streams), 'streams': streams, 'models': models,
            'seen_in_training': sum(
                trained_on[s['kind']].includes(s['name'], s['source']) for s in streams),
            'skipped': skipped, 'data': str(data)}


def summarise(streams: list[dict]) -> list[dict]:
    """Return the totals of each source, apart for what constants were chosen on."""
    groups = []
    for key in sorted({(s['kind'], s['chosen_on'], s['source']) for s in streams}):
        members = [s for s in streams if (s['kind'], s['chosen_on'], s['source']) == key]
        hours = sum(s['hours'] for s in members)
        alarms, plain = (sum(s[name] for s in members)
                         for name in ('false_alarms', 'uncalibrated_false_alarms'))
        trials = [fault for stream in members for fault in stream['faults']]
        groups.append({
            'kind': key[0], 'chosen_on': key[1], 'source': key[2], 'streams': len(members),
            'hours': hours, 'false_alarms': alarms,
            'false_alarms_per_hour': ratio(alarms, hours),
            'false_alarms_per_hour_upper_95': ratio(poisson_upper(alarms), hours),
            'uncalibrated_per_hour': ratio(plain, hours),
            'faults': [_fault_figures(fault.name, [t for t in trials if t['fault'] == fault.name])
                       for fault in FAULTS if fault.kind == key[0]]})
    return groups


def _fault_figures(name: str, trials: list[dict]) -> dict:
    found = [trial for trial in trials if trial['delay_s'] is not None]
    delays = [trial['delay_s'] for trial in found]
    return {'fault': name, 'n': len(trials), 'found': len(found),
            'delay_s_median': float(np.median(delays)) if delays else None,
            'delay_s_p90': float(np.quantile(delays, 0.9)) if delays else None,
            'blamed_rightly': sum(trial['blamed'] == trial['channel'] for trial in found),
            'uncalibrated_found': sum(t['uncalibrated_delay_s'] is not None for t in trials)}


def _judge_all(paths: list[Path], candidates: dict[str, Candidate], processes: int,
               only: frozenset[str] | None) -> Iterator[tuple[Path, dict | str | None]]:
    """Yield (path, figures, or why there are none) as they become ready."""
    if min(processes, len(paths)) <= 1:
        loaded = {kind: candidate.load() for kind, candidate in candidates.items()}
        for path in paths:
            yield path, _judge_path(path, loaded, only)
        return
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn'),
                             _start_worker) as pool:
        waiting = {pool.submit(_work, path, candidates, only): path for path in paths}
        try:
            for future in as_completed(waiting):
                yield waiting[future], future.result()
        finally:  # when interrupted: what has not begun is not wanted any more
            pool.shutdown(wait=False, cancel_futures=True)


def _judge_path(path: Path, loaded: dict, only: frozenset[str] | None) -> dict | str | None:
    trial = read_trial(path, {kind: parts[0] for kind, parts in loaded.items()})
    if trial is None:
        return 'holds nothing that could be judged'
    if only is not None and trial.name not in only:
        return None
    try:
        return judge(trial, *loaded[trial.kind])
    except ValueError as error:
        return str(error)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted and ends this one
    import torch
    torch.set_num_threads(1)  # one core each


_loaded: dict = {}


def _work(path: Path, candidates: dict[str, Candidate], only: frozenset[str] | None):
    for kind, candidate in candidates.items():
        if kind not in _loaded:
            _loaded[kind] = candidate.load()
    return _judge_path(path, _loaded, only)
