"""Make the reference of a model: tokens of its training subjects that must stay as they are."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch

from taolora_ros.adaptation.reference import (Reference, head_digest, reference_path,
                                              save_reference)
from taolora_ros.model_file import Model, load_model
from taolora_ros.recordings import Recording
from taolora_ros.shipped import find_model
from taolora_ros.training.corpus import Corpus, build_corpus
from taolora_ros.training.recipe import training_recordings
from taolora_ros.training.windows import WindowSampler

TOKENS = 768       # in all, each class alike as far as there are so many
RECORDINGS = 600   # of an IMU, evenly chosen: more only take longer
BATCHES, BATCH = 8, 128
AGES = 8           # tokens of a window, those that are decided next
HARD = 3.0         # logits: a token so far from a decision is drawn 1 / e as often
RARE = 0.02        # how often one that is very far is drawn, to one at the threshold
SEED = 5


def write_reference(path: Path, recordings: list[Recording]) -> Reference:
    """Make and write the reference of the INT4 model at ``path`` from its training subjects.

    Raise ValueError when none of ``recordings`` is of a subject that it was trained on.
    """
    model = load_model(path, 'int4')
    subjects = set(model.metadata.get('provenance', {}).get('subjects', []))
    known = [r for r in recordings if r.subject in subjects]
    if not known:
        raise ValueError(f'{path}: none of the recordings is of a subject it was trained on')
    reference = make_reference(model, build_corpus(
        model.spec, known[::max(len(known) // RECORDINGS, 1)]))
    save_reference(reference_path(path), reference)
    return reference


def reference_command(args: argparse.Namespace) -> int:
    """Write the reference beside each of ``args.models``; return the exit code."""
    recordings: dict[str, list[Recording]] = {}
    for name in args.models:
        path = find_model(name)
        kind = load_model(path).spec.kind
        if kind not in recordings:
            recordings[kind] = training_recordings(kind, Path(args.data), ())
        reference = write_reference(path, recordings[kind])
        print(f'wrote {reference_path(path)}: {len(reference.classes)} tokens, '
              f'{reference.bytes} bytes')
    return 0


def make_reference(model: Model, corpus: Corpus, seed: int = SEED) -> Reference:
    """Return tokens of ``corpus``: half disturbed as in training, those near a decision first.

    Windows lie as training draws them; of each only tokens at the age of decision are used.
    """
    spec, network = model.spec, model.network
    device = next(network.parameters()).device
    late = spec.tokens - int(np.ceil(spec.delay * spec.rate / spec.patch))
    rows = slice(late - AGES, late)
    embeddings, classes, margins = [], [], []
    for disturbed in (False, True):
        sampler = WindowSampler(spec, corpus, device, torch.Generator(device).manual_seed(seed),
                                augment=disturbed)
        for _ in range(BATCHES):
            batch = sampler.draw(BATCH)
            with torch.inference_mode():
                tokens = network.encode(batch.windows, batch.gates)[:, rows].flatten(0, 1)
                logits = network.read(tokens[None])[0][0]
            truth = batch.classes[:, rows].flatten()
            index = truth.clamp_min(0)[:, None]
            margin = logits.gather(1, index)[:, 0] - logits.scatter(1, index, -torch.inf).amax(1)
            embeddings.append(tokens.cpu().numpy())
            margins.append(margin.cpu().numpy())
            classes.append(truth.cpu().numpy())
    chosen = _choose(np.concatenate(classes), np.concatenate(margins), np.random.default_rng(seed))
    return Reference(np.concatenate(embeddings)[chosen].astype(np.float32),
                     np.concatenate(classes)[chosen],
                     head_digest(network.head.weight.detach().cpu().float().numpy()))


def _choose(classes: np.ndarray, margins: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return TOKENS indices, as many of each class, near decisions first; classes < 0 never."""
    present = np.unique(classes[classes >= 0])
    left, chosen = TOKENS, []
    for i, c in enumerate(sorted(present, key=lambda c: (classes == c).sum())):
        mine = np.flatnonzero(classes == c)
        count = min(left // (len(present) - i), len(mine))
        weight = np.exp(-np.abs(margins[mine]) / HARD) + RARE
        chosen.append(rng.choice(mine, count, replace=False, p=weight / weight.sum()))
        left -= count
    return np.sort(np.concatenate(chosen))
