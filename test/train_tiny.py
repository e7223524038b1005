"""
Train a tiny network as a process of its own, or as one of several that torchrun starts.

    train_tiny.py FOLDER STEPS SAVE_EVERY

keeps FOLDER/c.checkpoint, goes on from it, and writes its weights to FOLDER/RANK.weights.
"""

import sys
from pathlib import Path

import torch

from taolora_ros.training.ranks import joined
from taolora_ros.training.train import TrainOptions, train
from tiny import imu_corpus, tiny_spec

BATCH = 9  # odd: two processes share it unevenly


def options(steps, save_every):
    return TrainOptions(steps=steps, batch=BATCH, warmup=2, save_every=save_every,
                        hard_negatives=0.4)


def main(folder, steps, save_every):
    torch.set_num_threads(1)
    spec = tiny_spec()
    with joined('cpu') as ranks:
        network = train(spec, imu_corpus(spec), options(steps, save_every), torch.device('cpu'),
                        folder / 'c.checkpoint', resume=True, ranks=ranks)
        partial = folder / f'{ranks.rank}.partial'
        torch.save(network.state_dict(), partial)
        partial.rename(folder / f'{ranks.rank}.weights')


if __name__ == '__main__':
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
