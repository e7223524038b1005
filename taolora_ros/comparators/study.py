"""Measure every method on one network: what ``taolora evaluate comparators`` runs."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from taolora_ros.comparators.calibration import Calibration
from taolora_ros.comparators.held_out import shortened, split
from taolora_ros.comparators.measures import errors, logits, multiplies, size
from taolora_ros.comparators.rows import Row, ablation, comparators
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.evaluation.beats import ratio
from taolora_ros.evaluation.detection import changed_settings
from taolora_ros.evaluation.evaluate import judge, summarise
from taolora_ros.evaluation.spread import PROCESSES
from taolora_ros.model_file import Model, load_model
from taolora_ros.network import TaoNetwork
from taolora_ros.recordings import Recording
from taolora_ros.trained_on import TrainedOn
from taolora_ros.training.calibration import QuantizeOptions
from taolora_ros.training.corpus import build_corpus
from taolora_ros.training.recipe import training_recordings
from taolora_ros.training.tuning import TuneOptions
from taolora_ros.training.windows import Batch, WindowSampler

RANK = 8  # of every LoRA, where a row does not say otherwise
Progress = Callable[[int, int, str], None]  # rows done, rows, the row just done


@dataclass(frozen=True)
class Amount:
    """How much is calibrated, tuned and judged: windows, steps, hours of recordings (None: all)."""

    calibration: int = 128
    judged: int = 256
    pool: int = 1024
    tune_steps: int = 150
    tune_batch: int = 32
    hours: float | None = 0.4


@dataclass
class Study:
    """All that a row is measured with; sent to every process."""

    model: Path
    calibration: Calibration
    judged: Batch
    recordings: list[Recording]
    trained_on: TrainedOn = TrainedOn()

    def __post_init__(self):
        """Compute what all rows are compared with."""
        network = self.calibration.network
        self.wanted: Tensor = logits(network, self.judged.windows, self.judged.gates)

    @property
    def kind(self) -> str:
        """Return what the network reads, 'imu' or 'ecg'."""
        return self.recordings[0].kind


def prepare(model: Path, kind: str, data: Path, amount: Amount,
            only: frozenset[str] | None = None) -> Study:
    """Read recordings, split them by subject, draw windows, search clips; see ``run``.

    ``only`` names the subjects or records to judge. Raise ValueError for what cannot be used.
    """
    full, shipped = load_model(model, 'fp32'), load_model(model, 'int4')
    spec = full.spec
    if spec.kind != kind:
        raise ValueError(f'{model}: {spec.name} is for {spec.kind}, not {kind}')
    others, held_out = split(training_recordings(spec.kind, data, ()), only)
    corpus = build_corpus(spec, others)
    plain, augmented = (_sampler(spec, corpus, seed, augment) for seed, augment in
                        ((1, False), (2, True)))
    options = _options(shipped, amount.calibration)
    calibration = Calibration(
        full.network, plain.draw(amount.calibration), augmented.draw(amount.pool), options,
        TuneOptions(steps=amount.tune_steps, batch=amount.tune_batch))
    judged = _sampler(spec, build_corpus(spec, held_out), 3, False).draw(amount.judged)
    calibration.search()
    return Study(model, calibration, judged, shortened(held_out, amount.hours),
                 TrainedOn.of(full.metadata['provenance']))


def _sampler(spec, corpus, seed: int, augment: bool) -> WindowSampler:
    generator = torch.Generator().manual_seed(seed)
    return WindowSampler(spec, corpus, torch.device('cpu'), generator, augment)


def _options(shipped: Model, windows: int) -> QuantizeOptions:
    """Return the shipped model's options, with the LoRA that the other methods have, too."""
    known = {field.name for field in dataclasses.fields(QuantizeOptions)}
    told = shipped.metadata['provenance'].get('quantization', {})
    options = QuantizeOptions(**{key: value for key, value in told.items() if key in known})
    return dataclasses.replace(options, rank=RANK, lora_bits=16, scale_bits=32, windows=windows)


def run(study: Study, rows: list[Row], processes: int | None = None,
        progress: Progress = lambda *_: None) -> list[dict]:
    """Return the figures of every row, in order, ready for JSON.

    Each has ``method``, ``bytes``, ``error_steady``, ``error_transient`` (relative logit error
    on windows of held-out subjects), ``recall`` and ``precision`` (falls, or ventricular beats, as
    fractions, None where there are none), ``macs`` (multiplies of one window) and these by kind,
    ``gate`` and what share of the tokens it opened, for an ECG the same of all beats.
    """
    processes = processes or min(PROCESSES, os.cpu_count() or 1, len(rows))
    done: dict[int, dict] = {}
    if processes <= 1:
        for i, row in enumerate(rows):
            done[i] = measure(study, row)
            progress(len(done), len(rows), row.method)
        return [done[i] for i in range(len(rows))]
    order = [row.method for row in rows]
    with ProcessPoolExecutor(processes, multiprocessing.get_context('spawn'), _start_worker,
                             (study,)) as pool:
        waiting = {pool.submit(_work, row.method): i for i, row in enumerate(rows)}
        try:
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                progress(len(done), len(rows), order[waiting[future]])
        except BaseException:  # nobody wants the rest: do not wait for it
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [done[i] for i in range(len(rows))]


_study: Study | None = None  # of this worker process


def _start_worker(study: Study) -> None:
    global _study
    _study = study
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller is interrupted and ends this one
    torch.set_num_threads(1)


def _work(method: str) -> dict:
    row = next(row for row in comparators() + ablation() if row.method == method)
    return measure(_study, row)


def measure(study: Study, row: Row) -> dict:
    """Make the network of a row and return its figures."""
    started = time.monotonic()
    network = row.make(study.calibration)
    steady, transient = errors(network, study.wanted, study.judged, row.gate)
    streamed = _stream(study, network, row.gate)
    share = {'open': 1.0, 'closed': 0.0}.get(row.gate, streamed['transient_fraction'])
    kinds = multiplies(network, share)
    return {'method': row.method, 'bytes': size(network, row.exact), 'error_steady': steady,
            'error_transient': transient, **_events(streamed), 'macs': sum(kinds.values()),
            'macs_by_kind': dict(kinds), 'gate': row.gate if row.gated else 'none',
            'open_share': share if row.gated else None,
            'hours': sum(entry['duration_s'] for entry in streamed['recordings']) / 3600,
            'seconds': round(time.monotonic() - started, 1)}


def _stream(study: Study, network: TaoNetwork, gate: str) -> dict:
    """Return the figures of the judged recordings, streamed through the detector."""
    torch.set_num_threads(1)
    full = load_model(study.model, 'fp32')
    model = Model(full.spec, network, full.anomaly_scale, {}, full.metadata)
    loaded = (full.spec, ReferenceEngine(model, 'cpu'), changed_settings(full.spec, {'gate': gate}))
    return summarise(full.spec.kind, judge(study.recordings, loaded))


def _events(streamed: dict) -> dict:
    if 'fall' in streamed:
        fall = streamed['fall']
        return {'recall': fall['se'], 'events': fall['falls'],
                'precision': ratio(fall['found'], fall['found'] + fall['false_alarms'])}
    veb, beat = streamed['veb'], streamed['beat']
    return {'recall': veb['se'], 'precision': veb['ppv'], 'events': veb['n'],
            'beat_recall': beat['se'], 'beat_precision': beat['ppv']}
