"""What the documentation shows is what is there: tables of results, files it points to."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

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


def test_several_seeds_give_means_with_the_lowest_and_the_highest(tmp_path):
    shutil.copytree(ROOT / 'tools', tmp_path / 'tools')
    shutil.copytree(ROOT / 'docs' / 'results', tmp_path / 'docs' / 'results')
    rng = np.random.default_rng()
    made = {'ecg': [], 'imu': []}
    for kind, several in made.items():
        kept = tmp_path / 'docs' / 'results' / f'cross_validation_{kind}.json'
        for seed in (2, 10, 1):
            one = json.loads((ROOT / 'docs' / 'results' / kept.name).read_text())
            for precision in ('int4', 'fp32'):
                counts = one[precision].get('veb') or one[precision]['fall']
                for key in ('se', 'f1', 'found', 'tp', 'false_alarms_per_hour'):
                    if key in counts:
                        counts[key] = type(counts[key])(counts[key] * rng.uniform(0.5, 1.0))
            for r in one['int4']['recordings'] if kind == 'ecg' else ():
                r['veb']['fp'] = int(rng.integers(50, 99))
            several.append(one)
            (kept.parent / f'{kept.stem}_seed{seed}.json').write_text(json.dumps(one))
        kept.unlink()
    cells = {row[0]: row for row in rows(run('figures', tools=tmp_path / 'tools'))}

    def shown(values, form):
        return f'{form(np.mean(values))} ({form(min(values))} .. {form(max(values))})'

    def percent(share):
        return f'{100 * share:.2f}'

    pairs = [(one['int4']['veb'], one['fp32']['veb']) for one in made['ecg']]
    assert cells['ventricular beats (VEB)'][2] == shown([a['se'] for a, _ in pairs], percent)
    assert cells['VEB found, % of those FP32 finds'][2] == shown(
        [a['tp'] / b['tp'] for a, b in pairs], percent)
    assert cells['VEB F1, points more than FP32'][2] == shown(
        [100 * (a['f1'] - b['f1']) for a, b in pairs], '{:+.2f}'.format)
    rates = [[one[p]['fall']['false_alarms_per_hour'] for p in ('int4', 'fp32')]
             for one in made['imu']]
    assert cells['unseen subjects'][7] == shown([b for _, b in rates], '{:.2f}'.format)
    assert cells['false alarms per hour more than FP32'][2] == shown(
        [a - b for a, b in rates], '{:+.2f}'.format)
    assert cells['ECG, 3 seeds'] and cells['R peaks within 50 ms'][2].count('.') == 1
    cells = {row[0]: row for row in rows(run('details', tools=tmp_path / 'tools'))}
    false = [r['veb']['fp'] for one in made['ecg'] for r in one['int4']['recordings']
             if r['name'] == '207']
    assert float(cells['207'][4]) == pytest.approx(np.mean(false), abs=0.051)


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
