"""engine/agreement.py: an engine that rounds otherwise passes, one that is wrong does not."""

import numpy as np
import pytest

from taolora_ros.engine.agreement import check_agreement
from taolora_ros.engine.reference import ReferenceEngine
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model

pytest.importorskip('triton')


@pytest.fixture(params=['ecg_beats', 'imu_falls'])
def reference(request):
    from taolora_ros.engine.device_weights import with_half_lora
    model = load_model(find_model(request.param))
    return model, ReferenceEngine(with_half_lora(model), 'cpu')


def test_sums_rounded_otherwise_agree(reference):
    model, engine = reference
    seed = np.random.default_rng()

    def run(windows, gates):
        noise = 1 + 1e-6 * seed.standard_normal(windows.shape).astype(np.float32)
        return engine.run(windows * noise, gates)

    check_agreement(model, run)


@pytest.mark.parametrize('wrong', ['next gates', 'no LoRA', 'first window for all',
                                   'third window backwards', 'not a number'])
def test_what_is_wrong_does_not(reference, wrong):
    model, engine = reference

    def run(windows, gates):
        if wrong == 'next gates':
            gates = np.roll(gates, 1, 1)
        if wrong == 'no LoRA':
            gates = np.zeros_like(gates)
        if wrong == 'first window for all':
            windows = windows[:1].repeat(len(windows), 0)
        if wrong == 'third window backwards' and len(windows) == 3:
            windows = np.concatenate([windows[:2], windows[2:, ::-1]])
        scores = engine.run(windows, gates)
        if wrong == 'not a number':
            scores.anomaly[:] = np.nan
        return scores

    with pytest.raises(RuntimeError, match=r'off by .* in the median of 27 windows'):
        check_agreement(model, run)
