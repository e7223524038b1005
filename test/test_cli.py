"""The command line: quick help, one clear line and exit code 2 for bad input, no tracebacks."""

import subprocess
import sys

import pytest

from taolora_ros import __version__, cli

COMMANDS = ('demo', 'replay', 'evaluate', 'train', 'quantize', 'info')


def fails(capsys, *argv):
    """Run a command that must fail; return its single line of error."""
    assert cli.main([str(word) for word in argv]) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.count('\n') == 1, err
    return err


def test_one_fold_needs_to_know_of_how_many(tmp_path, capsys):
    from taolora_ros.cli import main
    assert main(['train', 'imu', '--data', str(tmp_path), '--fold', '3']) == 2
    assert '--folds' in capsys.readouterr().err


def test_help_names_every_command_and_imports_nothing_of_others():
    code = ('import sys; before = set(sys.modules); from taolora_ros.cli import build_parser; '
            'build_parser().format_help(); print({name.split(".")[0] for name in '
            'set(sys.modules) - before} - set(sys.stdlib_module_names))')
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "{'taolora_ros'}"
    for name in COMMANDS:
        assert name in cli.build_parser().format_help()


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main([command, '--help'])
    text = capsys.readouterr().out
    assert end.value.code == 0 and f'usage: taolora {command}' in text
    assert ('acc_delta  int16 [3,N]' in text) == (command in ('train', 'evaluate'))


def test_version(capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(['--version'])
    assert end.value.code == 0 and capsys.readouterr().out == f'taolora {__version__}\n'


@pytest.mark.parametrize('argv', [
    [], ['fly'], ['evaluate', 'ppg', '--data', 'x'], ['evaluate', 'imu'], ['replay'],
    ['evaluate', 'ecg', '--data', 'x', '--delay', 'soon']])
def test_wrong_words_end_with_two(argv, capsys):
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert end.value.code == 2
    assert 'usage: taolora' in capsys.readouterr().err


def test_missing_things_are_named(capsys, tmp_path):
    assert 'no such file' in fails(capsys, 'replay', tmp_path / 'bag')
    assert "'nope': no model of that name" in fails(capsys, 'info', 'nope')
    assert 'no such folder to write to' in fails(
        capsys, 'evaluate', 'imu', '--data', tmp_path, '--json', tmp_path / 'a' / 'b.json')
    broken = tmp_path / 'm.safetensors'
    broken.write_bytes(b'{}')
    assert 'not a complete safetensors file' in fails(capsys, 'info', broken)


def test_an_error_as_a_process_has_no_traceback(tmp_path):
    done = subprocess.run([sys.executable, '-m', 'taolora_ros.cli', 'replay',
                           str(tmp_path / 'x.npz')], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr == f'taolora replay: {tmp_path / "x.npz"}: no such file or folder\n'


def test_interrupting_says_so(monkeypatch, capsys):
    def interrupt(args):
        raise KeyboardInterrupt
    monkeypatch.setattr(cli, '_info', interrupt)
    assert cli.main(['info', 'x']) == 130
    assert capsys.readouterr().err == 'taolora info: interrupted\n'
