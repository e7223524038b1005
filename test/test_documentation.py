"""What the documentation shows is what is there: tables of results, files it points to."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'tools' / 'results.py'
PAGES = ('README.md', 'docs/models.md', 'docs/comparators.md', 'docs/adaptation.md',
         'docs/detection.md', 'docs/performance.md', 'CONTRIBUTING.md')


def run(*arguments):
    return subprocess.run([sys.executable, RESULTS, *map(str, arguments)], capture_output=True,
                          text=True, check=True).stdout


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


@pytest.mark.parametrize('name', ['cross_validation_ecg', 'cross_validation_imu'])
def test_keeping_results_again_changes_nothing(tmp_path, name):
    kept, raw, copy = ROOT / 'docs/results' / f'{name}.json', tmp_path / 'raw', tmp_path / 'copy'
    results = json.loads(kept.read_text())
    raw.write_text(json.dumps({precision: results[precision] for precision in ('fp32', 'int4')}))
    copy.write_text(kept.read_text())
    run('keep', raw, copy)
    kept_again = json.loads(copy.read_text())
    for precision in ('fp32', 'int4'):  # how many were judged is only known from all recordings
        for one in (results, kept_again):
            one[precision].pop('recordings_judged', None)
    assert kept_again == results
