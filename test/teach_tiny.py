"""
Make a tiny model with one teacher, as one of several processes that torchrun starts.

    teach_tiny.py FOLDER

reads the recordings in FOLDER and writes FOLDER/m.safetensors and what belongs to it.
"""

import sys
from pathlib import Path

import torch

from taolora_ros.training import recipe
from taolora_ros.training.calibration import QuantizeOptions
from taolora_ros.training.ranks import joined
from taolora_ros.training.train import TrainOptions
from taolora_ros.training.tuning import TuneOptions
from tiny import tiny_spec


def main(folder):
    torch.set_num_threads(1)
    recipe.SPECS['imu'] = tiny_spec()
    recipe.STEADY_WINDOWS = 256
    with joined('cpu') as ranks:
        recipe.make_model(recipe.Job(
            'imu', folder, folder / 'm.safetensors', 'cpu', resume=True, ranks=ranks,
            train_teachers=1, training=TrainOptions(steps=3, batch=5),
            tuning=TuneOptions(steps=1, batch=4), quantization=QuantizeOptions(rank=2, windows=16)))


if __name__ == '__main__':
    main(Path(sys.argv[1]))
