"""The node's parameters: one table for declaration, ranges, config/taolora.yaml and the README.

``python -m taolora_ros.parameters table`` prints the README's table, ``... yaml`` the contents of
``config/taolora.yaml``; a test compares both with what is committed. Nothing here needs ROS.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping

from taolora_ros.adaptation.settings import RANGES, AdaptationSettings
from taolora_ros.converter import STAMPS
from taolora_ros.parameter import Parameter
from taolora_ros.settings import GATES, Settings
from taolora_ros.spec import SPECS, ModelSpec


def _adaptation(name: str, meaning: str, unit: str = '') -> Parameter:
    """Return a live parameter of adaptation, whose default and range its settings have."""
    default = getattr(AdaptationSettings(), name)
    low, high = RANGES.get(name, (-math.inf, math.inf))
    return Parameter(name, type(default), default, meaning, unit, low, high, dynamic=True)


NODE = (
    Parameter('streams', list, ('imu', 'ecg'), 'names of the streams; each has the parameters '
              'below under its name'),
    Parameter('device', str, 'auto', 'where the network runs', choices=('auto', 'cpu', 'cuda')),
    Parameter('engine', str, 'auto', 'how the network runs', choices=(
        'auto', 'reference', 'native', 'mega', 'fused', 'streams')),
    Parameter('poll_rate', float, 50.0, 'how often messages are collected and windows decided',
              unit='Hz', low=1.0, high=1000.0),
    Parameter('max_lag', float, 1.0, 'how long windows may wait for the network before newer ones '
              'go first; those skipped are counted', unit='s', low=0.05, high=60.0),
    Parameter('autostart', bool, True, 'configure and activate without being asked; false: wait '
              'for a lifecycle manager'),
    Parameter('publish_scores', bool, False, 'publish scores and gate on ~/score/STREAM and '
              '~/gate/STREAM, for plots', dynamic=True),
)
STREAM = (
    Parameter('topic', str, None, 'topic to subscribe to; relative ones are in the node\'s '
              'namespace'),
    Parameter('type', str, None, 'its message type, e.g. sensor_msgs/msg/Imu'),
    Parameter('field', str, '', 'where in the message the values are: a dotted path, or one for '
              'each channel by commas; for Biosignal the names of its channels'),
    Parameter('unit', str, '', 'unit of the values when messages do not say (uV, mV, V, g, '
              'deg/s); empty: the model\'s'),
    Parameter('model', str, None, 'name of a shipped model, or path of a .safetensors file'),
    Parameter('sample_rate', float, 0.0, 'rate of the samples when messages do not say; 0: they '
              'do, or nobody does (Imu) and what is usual is expected', unit='Hz', low=0.0,
              high=1e6),
    Parameter('stamps', str, STAMPS[0], 'what header stamps tell. sampling: when samples were '
              'taken; arrival: when they reached the driver, in bursts say, so that they are '
              'evened out, at sample_rate or at the rate that the stamps have', choices=STAMPS),
    Parameter('event_threshold', float, None, 'score from which something is an event',
              low=0.0, high=1.0, dynamic=True),
    Parameter('anomaly_threshold', float, None, 'score from which a window is anomalous; 1: the '
              'limit of what is usual', low=0.0, high=1e6, dynamic=True),
    Parameter('variance_threshold', float, None, 'variance that opens the gate, in multiples of '
              'its steady value', low=1.0, high=1e6, dynamic=True),
    Parameter('curvature_threshold', float, None, 'energy of the second difference that opens the '
              'gate, likewise', low=1.0, high=1e6, dynamic=True),
    Parameter('hf_energy_threshold', float, None, 'energy above the model\'s corner frequency '
              'that opens the gate, likewise', low=1.0, high=1e6, dynamic=True),
    Parameter('gate', str, None, 'auto: as the thresholds say; open, closed: always; learned: as '
              'a trained router says', choices=GATES, dynamic=True),
    Parameter('hop', float, None, 'time from one decision to the next', unit='s', low=0.001,
              high=60.0, dynamic=True),
    Parameter('delay', float, None, 'how far behind the newest sample events are decided; more '
              'is more certain', unit='s', low=0.0, high=60.0, dynamic=True),
    Parameter('refractory', float, None, 'least time between two events of one label', unit='s',
              low=0.0, high=600.0, dynamic=True),
)
ADAPTATION = (
    Parameter('directory', str, '', 'where what was learnt is kept; empty: $ROS_HOME/taolora, else '
              '~/.ros/taolora'),
    Parameter('robot', str, '', 'name of the robot, under which it is kept; empty: the host\'s'),
    _adaptation('enabled', 'learn from what is said on ~/feedback'),
    _adaptation('rate', 'how far feedback weighs against what holds the model in its place'),
    _adaptation('decay', 'what is left of a feedback\'s weight after each later one'),
    _adaptation('targets', 'what learns; while running only heads can'),
    _adaptation('interval', 'time between two consolidations, with which what was learnt is also '
                'saved', 's'),
    _adaptation('events', 'events of each stream of which feedback can still be given'),
    _adaptation('seconds', 'how long after it a missed event can be reported', 's'),
    _adaptation('replay', 'feedbacks that are kept to learn from again'),
    _adaptation('per_minute', 'feedbacks that are taken a minute'),
    _adaptation('max_norm', 'limit of the change as a whole, in logits (rms over the reference)'),
    _adaptation('max_shift', 'limit of how far events of a stream fall, in logits, when feedback '
                'agrees with what the network finds doubtful'),
    _adaptation('doubtful_shift', 'the same when it does not agree'),
    _adaptation('max_lost', 'part of the reference\'s events whose loss rolls a change back'),
    _adaptation('max_new', 'part of the rest in which new events roll a change back'),
)
LEARNABLE = tuple(parameter.name for parameter in ADAPTATION if parameter.dynamic)
TUNABLE = tuple(parameter.name for parameter in STREAM if parameter.dynamic)
EXAMPLES = {  # the streams of config/taolora.yaml, and what they are without any file
    'imu': {'topic': 'imu/data', 'type': 'sensor_msgs/msg/Imu', 'model': SPECS['imu'].name},
    'ecg': {'topic': 'ecg', 'type': 'taolora_msgs/msg/Biosignal', 'model': SPECS['ecg'].name},
}


def checked_streams(names: Iterable[str]) -> list[str]:
    """Return the names of the streams; raise ValueError for one that cannot be one."""
    names = list(names)
    taken = {parameter.name for parameter in NODE} | {'qos_overrides', 'adaptation',
                                                      'use_sim_time'}
    if not names:
        raise ValueError('streams: [] holds no name, at least one is needed, e.g. [imu]')
    for name in names:
        if not re.fullmatch(r'[a-zA-Z]\w*', name):
            raise ValueError(f'streams: {name!r} is no name of a stream, letters, digits and _ are '
                             'needed, a letter first')
        if name in taken:
            raise ValueError(f'streams: {name!r} is what another parameter is called, choose '
                             'another name')
        if names.count(name) > 1:
            raise ValueError(f'streams: {name!r} is there twice, names must differ')
    return names


def default(parameter: Parameter, stream: str):
    """Return the default of a stream's parameter, None when it must be given."""
    return EXAMPLES.get(stream, {}).get(parameter.name, parameter.default)


def checked_stream(stream: str, given: Mapping[str, object]) -> dict[str, object]:
    """Return the values of all of a stream's parameters, its tunable ones only as given.

    ``given`` is name (without the stream's) to value. Raise ValueError naming what is wrong.
    """
    values = {}
    for parameter in STREAM:
        name = f'{stream}.{parameter.name}'
        value = given.get(parameter.name)
        value = default(parameter, stream) if value is None else parameter.checked(value, name)
        if value is None and not parameter.dynamic or value == '' and parameter.default is None:
            raise ValueError(f'{name}: not given; {parameter.meaning}')
        if value is not None:
            values[parameter.name] = value
    return values


def changed(stream: str, settings: Settings, spec: ModelSpec, changes: Mapping[str, object]
            ) -> Settings:
    """Return ``settings`` with ``changes``, checked one by one and together.

    Nothing is altered. Raise ValueError, starting with the parameter's name, when the result
    would not be valid for the model.
    """
    table = {parameter.name: parameter for parameter in STREAM}
    values = {name: table[name].checked(value, f'{stream}.{name}')
              for name, value in changes.items()}
    new = dataclasses.replace(settings, **values)
    try:
        new.validate(spec)
    except ValueError as error:
        raise ValueError(f'{stream}.{error}') from error
    return new


def adaptation(values: Mapping[str, object]) -> AdaptationSettings:
    """Return settings with ``values``; raise ValueError, naming the parameter, if they clash."""
    table = {parameter.name: parameter for parameter in ADAPTATION}
    return AdaptationSettings(**{name: table[name].checked(value, f'adaptation.{name}')
                                 for name, value in values.items()})


def unknown(names: Iterable[str], streams: Iterable[str]) -> list[str]:
    """Return a sentence for each name that is no parameter, with the most similar one that is."""
    known = [parameter.name for parameter in NODE]
    known += [f'adaptation.{parameter.name}' for parameter in ADAPTATION]
    known += [f'{stream}.{parameter.name}' for stream in streams for parameter in STREAM]
    found = []
    for name in names:
        if name in known or name == 'use_sim_time' or name.startswith('qos_overrides.'):
            continue
        near = difflib.get_close_matches(name, known, 1)
        found.append(f'{name}: no such parameter, ignored'
                     + (f'; did you mean {near[0]}?' if near else ''))
    return found


def markdown_table() -> str:
    """Return the README's table."""
    rows = ['| parameter | default | values | live | meaning |', '| --- | --- | --- | --- | --- |']
    for prefix, parameters in (('', NODE), ('adaptation.', ADAPTATION), ('STREAM.', STREAM)):
        for p in parameters:
            if p.default is None:
                shown = 'the model\'s' if p.dynamic else ', '.join(
                    f'{stream}: `{values[p.name]}`' for stream, values in EXAMPLES.items())
            else:
                shown = f'`{_yaml(p.default)}`'
            rows.append(f'| `{prefix}{p.name}` | {shown} | {p.allowed} | '
                        f'{"yes" if p.dynamic else ""} | {p.meaning} |')
    return '\n'.join(rows) + '\n'


def yaml_text() -> str:
    """Return the contents of config/taolora.yaml."""
    lines = ['# Parameters of the node taolora, as they are without this file too.',
             '# Written by: python -m taolora_ros.parameters yaml', '/**:', '  ros__parameters:']
    for p in NODE:
        lines += [f'    {line}' for line in _commented(p)] + [f'    {p.name}: {_yaml(p.default)}']
    lines += ['', '    adaptation:']
    for p in ADAPTATION:
        lines += [f'      {line}' for line in _commented(p)]
        lines.append(f'      {p.name}: {_yaml(p.default)}')
    for explained, (stream, values) in enumerate(EXAMPLES.items()):
        spec = next(spec for spec in SPECS.values() if spec.name == values['model'])
        own = dataclasses.asdict(Settings.default(spec))
        lines += ['', f'    {stream}:' + '  # what each one means: see above' * bool(explained)]
        for p in STREAM:
            if p.name == TUNABLE[0]:
                lines += ['', '      # From here on the model\'s own values hold where none is '
                          'set. All can be changed live:',
                          f'      # ros2 param set /taolora {stream}.{p.name} 0.7']
            lines += [f'      {line}' for line in ([] if explained else _commented(p))]
            value = own[p.name] if p.dynamic else values.get(p.name, p.default)
            lines.append(f'      {"#" if p.dynamic else ""}{p.name}: {_yaml(value)}')
    return '\n'.join(lines) + '\n'


def _commented(p: Parameter) -> list[str]:
    ranged = p.kind in (float, int) or p.choices
    text = p.meaning + (f' ({p.allowed})' if ranged else '')
    return textwrap.wrap(text, 92, initial_indent='# ', subsequent_indent='#   ')


def _yaml(value) -> str:
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(value)}]'
    return "''" if value == '' else str(value).lower() if isinstance(value, bool) else str(value)


def main() -> int:
    """Print the table or the file."""
    printers = {'table': markdown_table, 'yaml': yaml_text}
    if len(sys.argv) != 2 or sys.argv[1] not in printers:
        print('usage: python -m taolora_ros.parameters table|yaml', file=sys.stderr)
        return 2
    print(printers[sys.argv[1]](), end='')
    return 0


if __name__ == '__main__':
    sys.exit(main())
