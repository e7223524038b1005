"""Targets: which layers of a real network each strategy chooses."""

import numpy as np
import pytest
from taolora_ros.adaptation.targets import (
    BASE_TARGETS, MICRO_TARGETS, AdaptiveTopK, AllAttention, AllFFN, OutputHeadsOnly,
    SpecificLayers, gradient_norm, layer_kinds, parse_targets)
from taolora_ros.network import GatedConvolution, RotaryAttention, TaoNetwork
from taolora_ros.spec import IMU_FALLS

KINDS = layer_kinds(IMU_FALLS.network)


def test_kinds_are_those_of_the_network():
    network = TaoNetwork(IMU_FALLS)
    assert [*network.linears(), 'head'] == list(KINDS)
    modules = dict(network.named_modules())
    for name, kind in KINDS.items():
        parent = modules[name.rpartition('.')[0]]
        assert (kind == 'attention') == isinstance(parent, RotaryAttention)
        assert (kind == 'convolution') == isinstance(parent, GatedConvolution)


def test_each_strategy_chooses_its_layers():
    attention = ('blocks.1.mix.inner', 'blocks.1.mix.outer', 'blocks.3.mix.inner',
                 'blocks.3.mix.outer')
    assert AllAttention().choose(KINDS) == attention == BASE_TARGETS.choose(KINDS)
    assert AllFFN().choose(KINDS) == tuple(
        f'blocks.{i}.{part}' for i in range(4) for part in ('up', 'down'))
    assert OutputHeadsOnly().choose(KINDS) == ('head',) == MICRO_TARGETS.choose(KINDS)
    chosen = SpecificLayers(('head', 'blocks.0.up')).choose(KINDS)
    assert chosen == ('blocks.0.up', 'head')
    with pytest.raises(ValueError, match="no layer 'heads'; there are blocks.0.mix.inner"):
        SpecificLayers(('heads',)).choose(KINDS)


def test_the_layers_with_the_largest_gradients_are_chosen():
    random = np.random.default_rng()
    norms = dict(zip(KINDS, random.permutation(len(KINDS)).astype(float)))
    chosen = AdaptiveTopK(5).choose(KINDS, norms)
    assert len(chosen) == 5 and list(chosen) == [name for name in KINDS if name in chosen]
    assert min(norms[name] for name in chosen) == len(KINDS) - 5
    assert AdaptiveTopK(1).choose(KINDS, dict.fromkeys(KINDS, 1.0)) == ('head',)
    for wrong in ({}, {**norms, 'head': float('nan')}):
        with pytest.raises(ValueError, match='gradient norm of'):
            AdaptiveTopK(5).choose(KINDS, wrong)
    with pytest.raises(ValueError, match='top 99 of 17'):
        AdaptiveTopK(99).choose(KINDS, norms)


def test_a_network_without_a_kind_says_so():
    only = {name: kind for name, kind in KINDS.items() if kind != 'attention'}
    with pytest.raises(ValueError, match='no attention layer'):
        AllAttention().choose(only)


def test_targets_are_read_from_text():
    assert parse_targets('attention') == AllAttention()
    assert parse_targets(' ffn ') == AllFFN()
    assert parse_targets('heads') == OutputHeadsOnly()
    assert parse_targets('top 3') == parse_targets('top3') == AdaptiveTopK(3)
    assert parse_targets('head, blocks.0.up') == SpecificLayers(('head', 'blocks.0.up'))
    for wrong in ('', 'a b', 'top 0', 'head,', 'top -1'):
        with pytest.raises(ValueError, match='targets: '):
            parse_targets(wrong)


@pytest.mark.parametrize('tokens', [(), (1,), (13,)])
def test_gradient_norm_is_that_of_the_weights_gradient(tokens):
    random = np.random.default_rng()
    x, gradient = random.standard_normal((*tokens, 37)), random.standard_normal((*tokens, 23))
    full = np.atleast_2d(x).T @ np.atleast_2d(gradient)
    assert gradient_norm(x, gradient) == pytest.approx(np.linalg.norm(full))
