"""A layer of odd sizes that has learnt something, and what it may learn from."""

import numpy as np
import pytest

from taolora_ros.adaptation.lora import AdaptedLayer

K, N = 37, 23


@pytest.fixture
def random():
    seed = np.random.SeedSequence().entropy
    print('seed', seed)  # shown where a test fails
    return np.random.default_rng(seed)


def layer(random, **options):
    """Return a layer of odd sizes whose dW is not zero."""
    options = {'base_rank': 5, 'micro_rank': 3, 'alpha': 7.0, 'beta': 0.6, **options}
    made = AdaptedLayer(K, N, seed=int(random.integers(99)), **options)
    made.outputs[:] = random.standard_normal(made.outputs.shape)
    made.mark()
    return made


def token(random, *tokens):
    return (random.standard_normal((*tokens, K), np.float32),
            random.standard_normal((*tokens, N), np.float32))
