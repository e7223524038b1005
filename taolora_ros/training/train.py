"""Train the full-precision network (recipe of METHOD section 8)."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
import torch.nn.functional as F

from taolora_ros.network import TaoNetwork
from taolora_ros.spec import ModelSpec
from taolora_ros.training.corpus import IGNORE, Corpus
from taolora_ros.training.mining import Miner, Told
from taolora_ros.training.ranks import Ranks
from taolora_ros.training.windows import Batch, WindowSampler


@dataclass(frozen=True)
class TrainOptions:
    """How to train; the defaults made the shipped models.

    ``hard_negatives`` is the part of the windows around no event that is mined (``mining.py``).
    """

    steps: int = 3000
    batch: int = 256
    learning_rate: float = 1.5e-3
    warmup: int = 150
    weight_decay: float = 0.05
    dropout: float = 0.2
    ema: float = 0.998
    label_smoothing: float = 0.02
    offset_weight: float = 2.0
    rebuild_weight: float = 0.05
    seed: int = 0
    save_every: int = 500
    hard_negatives: float = 0.0


def train(spec: ModelSpec, corpus: Corpus, options: TrainOptions, device: torch.device,
          checkpoint: Path | None = None, resume: bool = False,
          report: Callable[[int, float], None] = lambda step, loss: None,
          ranks: Ranks = Ranks(), mined: Told = lambda step, shares: None) -> TaoNetwork:
    """Train on ``corpus`` and return the network with averaged weights, in eval mode, on the CPU.

    ``checkpoint`` is written every ``save_every`` steps; with ``resume`` training goes on from it
    (same options, subjects, ranks, else ValueError) and draws what it would have drawn. ``report``
    gets step and loss, ``mined`` step and shares. Each of several ranks trains on its share.
    """
    torch.manual_seed(options.seed)
    generator = torch.Generator(device).manual_seed(ranks.seed(options.seed))
    network = TaoNetwork(spec).to(device)
    for block in network.blocks:
        block.dropout.p = options.dropout
    average, optimizer = copy.deepcopy(network), _optimizer(network, options, device)
    sampler = WindowSampler(spec, corpus, device, generator)
    miner = Miner(sampler, corpus.group, options.hard_negatives, options.steps, mined)
    share, parallel = ranks.share(options.batch), ranks.parallel(network)
    if ranks.count > 1:
        torch.manual_seed(ranks.seed(options.seed))  # dropout; all began with the same weights
    first, of = 0, _what_is_trained(spec, corpus, options)
    if resume and checkpoint is not None and checkpoint.exists():
        first = _restore(checkpoint, of, ranks, network, average, optimizer, generator, miner)
    for step in range(first, options.steps):
        miner.mine(step, average, ranks)
        for group in optimizer.param_groups:
            group['lr'] = options.learning_rate * _schedule(step, options)
        loss = _step(network, parallel, sampler.draw(share), options)
        optimizer.zero_grad(set_to_none=True)
        (loss * (share * ranks.count / options.batch)).backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        _average(average, network, min(options.ema, (1 + step) / (10 + step)))
        if step % 50 == 0 or step == options.steps - 1:
            report(step, loss.item())
        if checkpoint is not None and (step + 1) % options.save_every == 0:
            _save(checkpoint, step + 1, of, ranks, network, average, optimizer, generator, miner)
    return average.cpu().eval()


def _step(network: TaoNetwork, parallel: torch.nn.Module, batch: Batch, options: TrainOptions
          ) -> Tensor:
    """Return the loss of ``network``, called as ``parallel``: in bfloat16 on a GPU."""
    device = batch.windows.device.type
    with torch.autocast(device, torch.bfloat16, enabled=device == 'cuda'):
        logits, offset, rebuilt = parallel(batch.windows)
    return task_loss(network, batch, logits.float(), offset.float(), rebuilt.float(), options)


def task_loss(network: TaoNetwork, batch: Batch, logits: Tensor, offset: Tensor, rebuilt: Tensor,
              options: TrainOptions) -> Tensor:
    """Return cross-entropy over tokens, plus offset error at events, plus rebuilding error."""
    classes = batch.classes
    loss = F.cross_entropy(logits.flatten(0, 1), classes.flatten(), ignore_index=IGNORE,
                           label_smoothing=options.label_smoothing)
    event = classes > 0
    if len(logits[0, 0]) > 2:  # beats have a place in their patch; a fall has an extent
        loss = loss + options.offset_weight * (
            (offset - batch.offsets).abs() * event).sum() / event.sum().clamp_min(1)
    rebuilding = F.smooth_l1_loss(rebuilt, network.patches(batch.windows))
    return loss + options.rebuild_weight * rebuilding


def _optimizer(network: TaoNetwork, options: TrainOptions, device: torch.device
               ) -> torch.optim.AdamW:
    """Return AdamW for ``network``; only what has two dimensions or more decays."""
    matrices = [p for p in network.parameters() if p.ndim >= 2]
    vectors = [p for p in network.parameters() if p.ndim < 2]
    return torch.optim.AdamW([{'params': matrices, 'weight_decay': options.weight_decay},
                              {'params': vectors, 'weight_decay': 0.0}],
                             lr=options.learning_rate, betas=(0.9, 0.98),
                             fused=device.type == 'cuda')  # on a GPU launches are what costs


def _schedule(step: int, options: TrainOptions) -> float:
    if step < options.warmup:
        return (step + 1) / options.warmup
    done = (step - options.warmup) / max(options.steps - options.warmup, 1)
    return 0.5 * (1 + math.cos(math.pi * done))


@torch.no_grad()
def _average(average: TaoNetwork, network: TaoNetwork, keep: float) -> None:
    torch._foreach_lerp_(list(average.parameters()), list(network.parameters()), 1 - keep)


def _what_is_trained(spec: ModelSpec, corpus: Corpus, options: TrainOptions) -> dict:
    """Return what must be the same for training to go on."""
    return {'options': asdict(options), 'spec': spec.to_dict(), 'rows': len(corpus.features),
            'subjects': sorted(set(corpus.subject.tolist()))}


def _save(path: Path, step: int, of: dict, ranks: Ranks, network, average, optimizer,
          generator, miner: Miner):
    """Write a checkpoint so that a kill at any moment leaves the old or the new one."""
    random = ranks.gather(generator.get_state().cpu())
    dropout = ranks.gather(_dropout_state(network).cpu())
    if not ranks.first:
        return
    partial = path.with_suffix('.partial')
    torch.save({'step': step, 'of': of, 'network': network.state_dict(),
                'average': average.state_dict(), 'optimizer': optimizer.state_dict(),
                'random': random, 'dropout': dropout, 'mined': miner.found}, partial)
    partial.replace(path)


def _restore(path: Path, of: dict, ranks: Ranks, network, average, optimizer,
             generator, miner: Miner) -> int:
    state = torch.load(path, map_location=next(network.parameters()).device, weights_only=True)
    if state.get('of') != of:
        raise ValueError(f'{path}: was written with other options or subjects; remove it or use '
                         'the same')
    if len(state['random']) != ranks.count:
        raise ValueError(f'{path}: was written by {len(state["random"])} processes, not by '
                         f'{ranks.count}; remove it or use as many')
    network.load_state_dict(state['network'])
    average.load_state_dict(state['average'])
    optimizer.load_state_dict(state['optimizer'])
    generator.set_state(state['random'][ranks.rank].cpu())
    _set_dropout_state(network, state['dropout'][ranks.rank].cpu())
    miner.restore({step: found.cpu() for step, found in state['mined'].items()})
    return state['step']


def _dropout_state(network: TaoNetwork) -> Tensor:
    """Return the state of the generator that dropout draws from."""
    on_gpu = next(network.parameters()).is_cuda
    return torch.cuda.get_rng_state() if on_gpu else torch.get_rng_state()


def _set_dropout_state(network: TaoNetwork, state: Tensor) -> None:
    if next(network.parameters()).is_cuda:
        torch.cuda.set_rng_state(state)
    else:
        torch.set_rng_state(state)
