"""Bytes of the host's memory are brought to the device, and none beside them."""

import pytest
import torch

pytest.importorskip('triton')


@pytest.mark.parametrize('count', [1, 64, 2047, 2048, 4097, 16651])
def test_bytes_arrive_and_nothing_beside_them_changes(kernels, count):
    from taolora_ros.kernels.fetch import fetch_launch
    source = torch.randint(0, 256, (count,), dtype=torch.uint8)
    room = torch.full((count + 4096,), 77, dtype=torch.uint8, device=kernels)
    fetch_launch(source.pin_memory() if kernels.type == 'cuda' else source, room[:count])()
    if kernels.type == 'cuda':
        torch.cuda.synchronize()
    assert torch.equal(room[:count].cpu(), source)
    assert bool((room[count:] == 77).all())


def test_a_model_s_windows_are_fetched_and_its_scores_are_written_to_the_host(kernels):
    from taolora_ros.engine import graph
    from taolora_ros.engine.fused import FusedEngine
    from taolora_ros.model_file import load_model
    from taolora_ros.shipped import find_model
    model = load_model(find_model('imu_falls'))
    engine = FusedEngine(model, kernels.type, check=False)
    host = graph.make_buffers(model, 2, 'cpu', pinned=kernels.type == 'cuda')
    own = graph.on_device(model, host, kernels)
    host.windows.normal_()
    host.gates.random_(0, 2)
    graph.issue(engine.launches(own), kernels.type == 'cuda')
    if kernels.type == 'cuda':
        torch.cuda.synchronize()
    assert torch.equal(own.windows.cpu(), host.windows) and torch.equal(own.gates.cpu(), host.gates)
    shape = (2, model.spec.window, model.network.features)
    wanted = engine.run(host.windows.view(shape).numpy(),
                        host.gates.view(2, -1).bool().numpy())
    assert torch.equal(host.probability, torch.as_tensor(wanted.probability))
    assert torch.equal(host.anomaly, torch.as_tensor(wanted.anomaly))
