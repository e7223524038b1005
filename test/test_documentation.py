"""What the documentation shows is what is there: tables of results, files it points to."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'tools' / 'results.py'
PAGES = ('README.md', 'docs/models.md', 'docs/comparators.md', 'docs/adaptation.md',
         'docs/detection.md', 'docs/performance.md', 'CONTRIBUTING.md')


def run(*arguments, tools=RESULTS.parent):
    return subprocess.run([sys.executable, tools / RESULTS.name, *map(str, arguments)],
                          capture_output=True, text=True, check=True).stdout


def rows(text):
    """Return the cells of each line of Markdown tables."""
    return [[cell.strip() for cell in line.strip('|').split('|')]
            for line in text.splitlines() if line]


@pytest.mark.parametrize('page, tables', [('README.md', 'figures'), ('docs/models.md', 'details'),
                                          ('docs/adaptation.md', 'adaptation'),
                                          ('docs/detection.md', 'detection')])
def test_tables_of_results_are_those_kept(page, tables):
    text = (ROOT / page).read_text()
    for table in run(tables).strip().split('\n\n'):
        assert table in text, f'put what tools/results.py {tables} prints into {page}'


def test_tables_of_comparators_are_those_kept():
    page = (ROOT / 'docs/comparators.md').read_text()
    again = subprocess.run(
        [sys.executable, '-c', 'import comparators, sys; '
         'sys.stdout.write(comparators.filled(comparators.PAGE.read_text()))'],
        cwd=ROOT / 'tools', capture_output=True, text=True, check=True).stdout
    assert again == page, 'run tools/comparators.py'
    assert page.count('| --- |') >= 4


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_to_files_and_headings(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', (ROOT / page).read_text()):
        if target.startswith('https://'):
            continue
        name, _, heading = target.partition('#')
        file = (ROOT / page).parent / name if name else ROOT / page
        assert file.exists(), f'{page}: {target}'
        if heading:
            headings = re.findall(r'^#+ (.*)$', file.read_text(), re.MULTILINE)
            anchors = [re.sub(r'[^\w\- ]', '', h).lower().replace(' ', '-') for h in headings]
            assert heading in anchors, f'{page}: {target}'


def test_seeds_are_shown_as_mean_lowest_and_highest_beside_the_recipe(tmp_path):
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    shutil.copytree(ROOT / 'docs' / 'results', tmp_path / 'docs' / 'results')
    rng, results = np.random.default_rng(), tmp_path / 'docs' / 'results'
    for path in results.glob('cross_validation_ecg_*[0-9].json'):
        path.unlink()
    headline, made = run('figures', tools=tmp_path / 'tools'), []
    for seed in (2, 10, 1, 7):
        one = json.loads((results / 'cross_validation_ecg.json').read_text())
        for precision in ('int4', 'fp32'):
            for key in ('beat', 'beat_50ms', 'veb'):
                counts = one[precision][key]
                for part in {'se', 'ppv', 'f1', 'ppv_strict', 'tp'} & set(counts):
                    counts[part] = type(counts[part])(counts[part] * rng.uniform(0.5, 1.0))
        made.append(one)
        (results / f'cross_validation_ecg_seed{seed}.json').write_text(json.dumps(one))
        if seed > 6:  # fewer of them were taught
            (results / f'cross_validation_ecg_taught{seed}.json').write_text(json.dumps(one))
            (results / f'cross_validation_ecg_alike{seed}.json').write_text(json.dumps(one))
    taught = [made[i] for i in (3, 1)]
    assert run('figures', tools=tmp_path / 'tools') == headline, 'figures are of the recipe alone'
    lines = rows(run('details', tools=tmp_path / 'tools'))
    cells = {row[0]: row[1:] for row in lines}

    def shown(values, form):
        return f'{form(np.mean(values))} ({form(min(values))} .. {form(max(values))})'

    def percent(share):
        return f'{100 * share:.2f}'

    for key, name in (('beat', 'R peaks within 150 ms'), ('beat_50ms', 'R peaks within 50 ms'),
                      ('veb', 'ventricular beats (VEB)')):
        for part, title in (('se', 'Se %'), ('ppv', 'PPV %'), ('f1', 'F1 %')):
            assert cells[f'{name}: {title}'] == [
                *(shown([one[p][key][part] for one in made], percent) for p in ('fp32', 'int4')),
                shown([one['int4'][key][part] for one in taught], percent)]
    assert cells['ventricular beats (VEB): PPV with fusion %'][1] == shown(
        [one['int4']['veb']['ppv_strict'] for one in made], percent)
    pairs = [(one['int4']['veb'], one['fp32']['veb']) for one in made]
    assert cells['VEB found, % of those FP32 finds'][1] == shown(
        [a['tp'] / b['tp'] for a, b in pairs], percent)
    assert cells['VEB F1, points more than FP32'][1] == shown(
        [100 * (a['f1'] - b['f1']) for a, b in pairs], '{:+.2f}'.format)
    assert cells['ECG, 4 seeds'] == ['FP32', 'INT4', 'INT4 with teachers']
    shipped = [*taught, json.loads((results / 'cross_validation_ecg.json').read_text())]
    first = [row[0] for row in lines].index('ECG, as it ships, 3 seeds')
    assert next(row for row in lines[first:] if row[0].endswith('(VEB): F1 %'))[1:] == [
        shown([one[p]['veb']['f1'] for one in shipped], percent) for p in ('fp32', 'int4')]


@pytest.mark.parametrize('kind', ['ecg', 'imu'])
def test_a_shipped_model_tells_the_figures_that_are_kept(kind):
    kept = json.loads((ROOT / 'docs' / 'results' / f'cross_validation_{kind}.json').read_text())
    told = load_model(find_model({'ecg': 'ecg_beats', 'imu': 'imu_falls'}[kind])).metadata
    for precision in ('int4', 'fp32'):
        for key in {'beat', 'beat_50ms', 'veb', 'fall'} & set(kept[precision]):
            one, other = kept[precision][key], told['figures']['cross_validation'][precision][key]
            counts = {'tp', 'fp', 'fn', 'falls', 'found', 'false_alarms'} & set(one)
            assert counts and {k: one[k] for k in counts} == {k: other[k] for k in counts}


@pytest.mark.parametrize('name', [path.stem for path in (ROOT / 'docs' / 'results').glob(
    'cross_validation_*.json')])
def test_keeping_results_again_changes_nothing(tmp_path, name):
    kept, raw, copy = ROOT / 'docs/results' / f'{name}.json', tmp_path / 'raw', tmp_path / 'copy'
    results = json.loads(kept.read_text())
    raw.write_text(json.dumps({key: results[key] for key in ('fp32', 'int4', 'provenance')}))
    copy.write_text(kept.read_text())
    run('keep', raw, copy)
    kept_again = json.loads(copy.read_text())
    for precision in ('fp32', 'int4'):  # how many were judged is only known from all recordings
        for one in (results, kept_again):
            one[precision].pop('recordings_judged', None)
    assert kept_again == results


def test_a_table_is_kept_with_where_it_comes_from(tmp_path):
    raw, out = tmp_path / 'raw', tmp_path / 'out.json'
    out.write_text(json.dumps({'what': 'beats', 'provenance': {'command': 'that one', 'code': 'a'},
                               'rows': []}))
    raw.write_text(json.dumps([{'name': 'ours', 'beat': {'se': 1 / 3}}, {'name': 'theirs'}]))
    run('keep', raw, out)
    kept = json.loads(out.read_text())
    assert kept['rows'] == [{'name': 'ours', 'beat': {'se': 0.333333}}, {'name': 'theirs'}]
    assert kept['what'] == 'beats' and kept['provenance']['command'] == 'that one'
    assert kept['provenance']['code'] != 'a' and {'date', 'torch'} <= set(kept['provenance'])
    assert len(out.read_text().splitlines()) == len(kept['provenance']) + 9  # a line for each row
