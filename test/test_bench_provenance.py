"""What made the figures of a bench is told alike."""

from datetime import datetime, timezone
from importlib import metadata

from taolora_ros.bench.provenance import provenance
from taolora_ros.origin import commit


def test_commit_date_machine_and_versions_are_told(monkeypatch):
    monkeypatch.setenv('TAOLORA_COMMIT', 'abc1234')
    told = provenance('rich', 'no-such-package')
    assert told['commit'] == 'abc1234' and 'cores' in told['machine'] and told['system']
    passed = datetime.now(timezone.utc) - datetime.fromisoformat(told['date'])
    assert 0 <= passed.total_seconds() < 60
    for name in ('numpy', 'torch', 'rich'):
        assert told[name] == metadata.version(name)
    assert told['no-such-package'] == 'not installed'


def test_without_git_the_commit_is_not_known(monkeypatch, tmp_path):
    monkeypatch.delenv('TAOLORA_COMMIT', raising=False)
    monkeypatch.setenv('PATH', str(tmp_path))
    assert commit() == 'unknown'
