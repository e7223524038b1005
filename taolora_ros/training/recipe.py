"""From a folder of recordings to model files: what ``taolora train`` and ``quantize`` run."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

import taolora_ros
from taolora_ros.engine.reference import pick_device, rebuild_error
from taolora_ros.model_file import Model, load_model, save_model
from taolora_ros.network import TaoNetwork
from taolora_ros.origin import commit
from taolora_ros.recordings import Recording, load_recordings
from taolora_ros.spec import SPECS, ModelSpec
from taolora_ros.trained_on import TrainedOn
from taolora_ros.training.calibration import QuantizeOptions, quantize_network
from taolora_ros.training.corpus import Corpus, build_corpus
from taolora_ros.training.ranks import Ranks
from taolora_ros.training.train import TrainOptions, train
from taolora_ros.training.tuning import TuneOptions, tune
from taolora_ros.training.windows import WindowSampler

STEADY_WINDOWS = 4096
STEADY_QUANTILE = 0.999
HARD_NEGATIVES = {'imu': 0.0, 'ecg': 0.0}  # what TrainOptions are made with by default
NOTABLE = 0.005  # of what is mined: rarer kinds are not told
Report = Callable[[str, float, str], None]  # what is being done, share done, how it goes


@dataclass(frozen=True)
class Job:
    """One model to make: ``out`` gets the INT4 file, its sibling .fp32.safetensors the other.

    ``left_out`` names subjects (IMU), records (ECG) or sources not to train on. ``teachers`` are
    full-precision files whose answers count in tuning as much as the model's own; so do those of
    ``train_teachers`` networks that are trained for it, of the seeds that follow. Of several
    ``ranks`` that train together the first one does all the rest.
    """

    kind: str
    data: Path
    out: Path
    device: str = 'auto'
    resume: bool = False
    left_out: frozenset[str] = frozenset()
    training: TrainOptions = field(default_factory=TrainOptions)
    quantization: QuantizeOptions = field(default_factory=QuantizeOptions)
    tuning: TuneOptions = field(default_factory=TuneOptions)
    teachers: tuple[Path, ...] = ()
    train_teachers: int = 0
    ranks: Ranks = Ranks()

    @property
    def full_precision(self) -> Path:
        """Path of the full-precision model."""
        return self.out.with_name(self.out.name.removesuffix('.safetensors') + '.fp32.safetensors')

    @property
    def teacher_jobs(self) -> list[Job]:
        """Jobs of the ``train_teachers`` networks, NAME.teacherI beside NAME; I is from 1."""
        name = self.out.name.removesuffix('.safetensors')
        return [replace(self, out=self.out.with_name(f'{name}.teacher{i}.safetensors'),
                        training=replace(self.training, seed=self.training.seed + i),
                        teachers=(), train_teachers=0)
                for i in range(1, self.train_teachers + 1)]


def training_recordings(kind: str, data: Path, left_out: Iterable[str]) -> list[Recording]:
    """Return the recordings to train on: annotated, no added noise, not paced, not left out."""
    left_out = set(left_out)
    return [r for r in load_recordings(data, kind) if not r.paced and r.snr_db is None
            and not left_out & {r.subject, r.source}]


def make_model(job: Job, report: Report = lambda *_: None) -> None:
    """Train, quantize and write all files of ``job``; raise ValueError for unusable data."""
    job.out.parent.mkdir(parents=True, exist_ok=True)
    report('reading recordings', 0.0, '')
    corpus = build_corpus(SPECS[job.kind], training_recordings(job.kind, job.data, job.left_out))
    _train_network(job, corpus, 'training', report)
    for i, teacher in enumerate(job.teacher_jobs, 1):
        if not _is_kept(teacher, corpus):
            _train_network(teacher, corpus, f'training teacher {i}', report)
    if job.ranks.first:
        trained = tuple(teacher.full_precision for teacher in job.teacher_jobs)
        quantize_model(replace(job, teachers=job.teachers + trained), corpus, report=report)


def _train_network(job: Job, corpus: Corpus, stage: str, report: Report) -> None:
    """Train one network and write its full-precision file."""
    spec, device, steps = SPECS[job.kind], pick_device(job.device), job.training.steps
    mined: dict[str, dict] = {}

    def note(step: int, shares: dict[str, float]) -> None:
        mined[str(step)] = {kind: share for kind, share in shares.items() if share >= NOTABLE}
        most = ', '.join(f'{kind} {share:.0%}' for kind, share in list(shares.items())[:3])
        report(f'{stage}, hard negatives', (step + 1) / steps, f'step {step}: {most or "none"}')

    network = train(spec, corpus, job.training, device, job.out.with_suffix('.checkpoint'),
                    job.resume, lambda step, loss: report(stage, (step + 1) / steps,
                                                          f'step {step}, loss {loss:.4f}'),
                    job.ranks, note)
    if job.ranks.first:
        scale = anomaly_scale(spec, network.to(device), corpus, device)
        provenance = _provenance(job, corpus, device)
        save_model(job.full_precision, spec, network, scale,
                   {**provenance, 'mined': mined} if mined else provenance, {})


def _is_kept(teacher: Job, corpus: Corpus) -> bool:
    """Tell whether ``teacher`` was trained before and is to be kept; all ranks get one answer.

    Raise ValueError when what is there was trained otherwise.
    """
    there = teacher.resume and teacher.full_precision.exists()
    if there and teacher.ranks.first:
        model = load_model(teacher.full_precision)
        wanted = _provenance(teacher, corpus, pick_device(teacher.device))
        made = told(model)
        if model.spec != SPECS[teacher.kind] or any(
                made.get(key) != wanted[key] for key in ('training', 'subjects', 'left_out')):
            raise ValueError(f'{teacher.full_precision}: was trained with other options; remove '
                             'it or use the same')
    return bool(teacher.ranks.gather(torch.tensor(there))[0])


def told(model: Model) -> dict:
    """Return the provenance of ``model``, with what files do not say that were made before."""
    made, usual = model.metadata['provenance'], {'hard_negatives': 0.0}
    return {**made, 'training': {**usual, **made.get('training', {})},
            'teachers': [{**usual, **one} for one in made.get('teachers', [])]}


def quantize_model(job: Job, corpus: Corpus | None = None, source: Path | None = None,
                   report: Report = lambda *_: None) -> None:
    """Quantize ``source``, by default ``job``'s full-precision file, and write the INT4 file."""
    device = pick_device(job.device)
    model = load_model(source or job.full_precision)
    spec, options = model.spec, job.quantization
    teachers = [load_teacher(path, model) for path in job.teachers]
    if corpus is None:
        report('reading recordings', 0.0, '')
        corpus = build_corpus(spec, training_recordings(job.kind, job.data, job.left_out))
    network = model.network.to(device)
    sampler = _plain_sampler(spec, corpus, device, options.seed)
    torch.manual_seed(options.seed)
    errors: dict[str, list[float]] = {}
    count = len(network.linears())

    def note(name: str, steady: float, transient: float) -> None:
        errors[name] = [round(steady, 5), round(transient, 5)]
        report('quantizing', len(errors) / count, f'{name}: {steady:.4f} / {transient:.4f}')

    quantized = quantize_network(network, sampler.draw(options.windows), options, note)
    before = logit_error(network, quantized, sampler)
    if job.tuning.steps:
        disturbed = WindowSampler(spec, corpus, device,
                                  torch.Generator(device).manual_seed(options.seed + 1))
        tune(quantized, network, disturbed, job.tuning, lambda step, loss: report(
            'tuning', (step + 1) / job.tuning.steps, f'step {step}, loss {loss:.5f}'),
             [teacher.network.to(device) for teacher in teachers])
    figures = {'layer_error_steady_transient': errors,
               'logit_error_before_tuning': before,
               'logit_error_steady_transient': logit_error(network, quantized, sampler)}
    provenance = {**model.metadata['provenance'], 'quantization': asdict(options),
                  'tuning': asdict(job.tuning), 'quantized_without': sorted(job.left_out),
                  'quantized_on': _by_source(corpus),
                  'teachers': [teacher.metadata['provenance']['training'] for teacher in teachers]}
    scale = anomaly_scale(spec, quantized, corpus, device)
    save_model(job.out, spec, quantized, scale, provenance, figures)


def _by_source(corpus: Corpus) -> dict[str, list[str]]:
    """Return the subjects in a corpus by source."""
    return {source: np.unique(corpus.subject[corpus.source == source]).tolist()
            for source in np.unique(corpus.source).tolist()}


def load_teacher(path: Path, model: Model) -> Model:
    """Return the full-precision model at ``path``, whose answers ``model`` may learn.

    Raise ValueError when it is INT4, for other windows, or has seen what the model has not.
    """
    teacher = load_model(path)
    if teacher.precision != 'fp32':
        raise ValueError(f'{path}: a teacher must be in full precision')
    if teacher.spec != model.spec:
        raise ValueError(f'{path}: {teacher.spec.name} {teacher.spec.version} cannot teach '
                         f'{model.spec.name} {model.spec.version}, specifications differ')
    seen, known = (TrainedOn.of(one.metadata['provenance']) for one in (teacher, model))
    more = {name for source, names in seen.sources.items() for name in names
            if not known.includes(name, source)}
    if more:
        raise ValueError(f'{path}: was trained on {", ".join(sorted(more))}, which the '
                         'model to be quantized was not')
    return teacher


def _plain_sampler(spec: ModelSpec, corpus: Corpus, device: torch.device, seed: int
                   ) -> WindowSampler:
    generator = torch.Generator(device).manual_seed(seed)
    return WindowSampler(spec, corpus, device, generator, augment=False)


@torch.inference_mode()
def logit_error(network: TaoNetwork, quantized: TaoNetwork, sampler: WindowSampler,
                windows: int = 512) -> list[float]:
    """Return the relative logit error on steady and on transient tokens of fresh windows.

    Logits are compared after taking off their mean over the classes, which softmax ignores.
    """
    batch = sampler.draw(windows)
    wanted, got = (n(batch.windows, batch.gates)[0] for n in (network, quantized))
    wanted, got = (x - x.mean(-1, keepdim=True) for x in (wanted, got))
    return [round(float((got - wanted)[g].norm() / wanted[g].norm()), 5)
            for g in (~batch.gates, batch.gates)]


@torch.inference_mode()
def anomaly_scale(spec: ModelSpec, network: TaoNetwork, corpus: Corpus, device: torch.device
                  ) -> torch.Tensor:
    """Return the rebuilding error (F,) that 99.9 % of ordinary training windows stay below."""
    sampler = _plain_sampler(spec, _without_falls(corpus) if spec.kind == 'imu' else corpus,
                             device, 2)
    errors = []
    for _ in range(STEADY_WINDOWS // 256):
        batch = sampler.draw(256, aim=0.0)
        rebuilt = network(batch.windows, batch.gates)[2]
        errors.append(rebuild_error(network.patches(batch.windows), rebuilt, network.features))
    return torch.cat(errors).quantile(STEADY_QUANTILE, dim=0).clamp_min(1e-4).cpu()


def _without_falls(corpus: Corpus) -> Corpus:
    """Return ``corpus`` with recordings of falls never drawn."""
    weight = corpus.weight.copy()
    weight[corpus.event_recording] = 1e-9
    return replace(corpus, weight=weight)


def _provenance(job: Job, corpus: Corpus, device: torch.device) -> dict:
    name = torch.cuda.get_device_name() if device.type == 'cuda' else platform.processor()
    return {'taolora_ros': taolora_ros.__version__, 'code': commit(), 'torch': torch.__version__,
            'device': name or device.type, 'training': asdict(job.training),
            'subjects': np.unique(corpus.subject).tolist(),
            'sources': _by_source(corpus),
            'left_out': sorted(job.left_out)}
