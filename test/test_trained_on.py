"""Whom a model was trained on: names count together with their source."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from tiny import imu_recording

from taolora_ros.evaluation.evaluate import Choice
from taolora_ros.model_file import load_model
from taolora_ros.recordings import find_files, read_npz
from taolora_ros.shipped import find_model
from taolora_ros.spec import IMU_FALLS
from taolora_ros.trained_on import FIRST, TrainedOn, person, same_source
from taolora_ros.training.corpus import build_corpus
from taolora_ros.training.recipe import Job, _provenance

KNOWN = TrainedOn.of({'subjects': ['a', 'b', 'c'], 'sources': {'weda': ['a'], 'other': ['b']}})


@pytest.mark.parametrize('name, source, included', [
    ('a', 'weda', True), ('a', 'WEDA-FALL', True), ('a', 'my_weda', True), ('a', 'sisfall', False),
    ('a', '', True), ('a', '..', True), ('b', 'weda', False), ('b', 'OTHER', True),
    ('c', 'weda', True), ('c', 'anywhere', True), ('d', 'weda', False), ('d', '', False)])
def test_the_source_counts_where_it_is_known(name, source, included):
    assert KNOWN.includes(name, source) == included


@pytest.mark.parametrize('one, other, same', [
    ('data', 'data', True), ('mitdb', 'MIT-DB 1.0.0', True), ('ab', 'abc', False),
    ('ab', 'A_B', True), ('abc', 'xabcx', True), ('weda', 'wed', True), ('paced', 'mitdb', False)])
def test_sources_are_the_same_when_one_name_holds_the_other(one, other, same):
    assert same_source(one, other) == same_source(other, one) == same


@pytest.mark.parametrize('noise, name, person_is, seen', [
    (None, '118', '118', False), (None, '118e06', '118e06', False), (6.0, '118e06', '118', True),
    (6.0, '118', '118', True), (6.0, '102e06', '102', False)])
def test_added_noise_does_not_make_a_record_of_somebody_else(noise, name, person_is, seen):
    trained_on = TrainedOn.of({'subjects': ['118'], 'sources': {'mitdb': ['118']}})
    recording = dataclasses.replace(imu_recording(name, False), source='nstdb', snr_db=noise)
    assert person(recording) == person_is and trained_on.has(recording) == seen
    assert Choice(None, trained_on, unseen=True).takes(recording) != seen
    assert Choice(None, trained_on).takes(recording)


def test_a_file_without_sources_is_resolved_where_all_its_names_are_of_the_first_sets():
    first = [*FIRST['sisfall'], 'U05']
    old = TrainedOn.of({'subjects': first})
    assert old.sources == {'sisfall': FIRST['sisfall'], 'weda': {'U05'}}
    few = TrainedOn.of({'subjects': ['U01', 'U05']})  # of somebody else, who calls people so, too
    assert few.includes('U05', 'clinic')
    assert old.includes('U05', 'weda_fall') and not old.includes('U05', 'clinic')
    mixed = TrainedOn.of({'subjects': ['U05', 'anna']})
    assert mixed.sources == {'': {'U05', 'anna'}} and mixed.includes('U05', 'clinic')
    assert not TrainedOn.of({}).includes('U05', '') and not TrainedOn().includes('U05', '')


@pytest.mark.parametrize('model', ['imu_falls', 'ecg_beats'])
@pytest.mark.parametrize('precision', ['int4', 'fp32'])
def test_sources_of_shipped_models_are_known(model, precision):
    provenance = load_model(find_model(model), precision).metadata['provenance']
    sources = TrainedOn.of(provenance).sources
    assert set(sources) == ({'sisfall', 'weda'} if model == 'imu_falls' else {'mitdb'})
    assert sum(map(len, sources.values())) == len(provenance['subjects'])


def test_first_sets_are_those_at_hand(shared_data):
    there = {}
    for kind, folder in (('imu', 'imu_falls'), ('ecg', 'ecg/mitdb')):
        for path in find_files(shared_data / folder, kind):
            recording = next(read_npz(path))
            if not recording.paced:
                there.setdefault(recording.source, set()).add(recording.subject)
    assert there == FIRST


def test_training_tells_the_sources():
    spec = IMU_FALLS
    recordings = [dataclasses.replace(imu_recording(name, True, seed=i), source=source)
                  for i, (name, source) in enumerate((('a', 'x'), ('b', 'x'), ('a', 'y')))]
    corpus = build_corpus(spec, recordings)
    told = json.loads(json.dumps(_provenance(
        Job('imu', None, None), corpus, torch.device('cpu'))))
    assert told['subjects'] == ['a', 'b'] and told['sources'] == {'x': ['a', 'b'], 'y': ['a']}
    assert TrainedOn.of(told).named('a') == ('x', 'y')
    assert np.array_equal(corpus.source, ['x', 'x', 'y'])


@pytest.mark.parametrize('folders, seen', [
    (('weda',), True), (('store', 'weda'), True), (('U05', 'all', 'weda'), True),
    (('clinic', 'data'), False), ((), False)])
def test_folders_above_count_too(folders, seen):
    trained_on = TrainedOn.of({'subjects': ['U05'], 'sources': {'weda': ['U05']}})
    recording = dataclasses.replace(imu_recording('U05', False), source='else', folders=folders)
    assert trained_on.has(recording) == seen


def test_a_link_is_where_it_is_called_not_where_it_leads_to(tmp_path):
    (tmp_path / 'weda').mkdir()
    np.savez(tmp_path / 'blob.npz', acc_delta=np.zeros((3, 50), np.int16), acc_scale=1.0, fs=50.0)
    (tmp_path / 'weda' / 'U05.npz').symlink_to(tmp_path / 'blob.npz')
    recording = next(read_npz(tmp_path / 'weda' / 'U05.npz'))
    assert recording.source == 'weda' and recording.folders[:2] == ('weda', tmp_path.name)


def test_whom_a_file_was_quantized_on_counts():
    trained_on = TrainedOn.of({'subjects': ['U05'], 'sources': {'weda': ['U05']},
                               'quantized_on': {'weda': ['U06'], 'phone': ['U05', 'anna']}})
    assert trained_on.includes('anna', 'phone') and trained_on.includes('U06', 'weda')
    assert trained_on.named('U05') == ('phone', 'weda') and not trained_on.includes('U06', 'phone')
