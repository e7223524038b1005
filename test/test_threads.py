"""One thread computes, so that threads that wait for each other do not take the robot's cores."""

import subprocess
import sys

CODE = '''
import torch
from threadpoolctl import threadpool_info
from taolora_ros.adapting import Adapting  # brings SciPy's BLAS, as in the node
from taolora_ros.models import Models
Models('auto', 'cpu').load('ecg.model', 'ecg_beats')
print(torch.get_num_threads(),
      *(pool['num_threads'] for pool in threadpool_info() if pool['user_api'] == 'blas'))
'''


def test_a_node_with_a_model_computes_in_one_thread():
    found = subprocess.run([sys.executable, '-c', CODE], capture_output=True, text=True, check=True,
                           env={'PATH': '/usr/bin:/bin', 'OPENBLAS_NUM_THREADS': '2'})
    threads = found.stdout.split()
    assert len(threads) >= 2 and set(threads) == {'1'}
