"""The Foxglove layout: what it shows is what the node publishes, field by field."""

import importlib
import json
import re
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='rclpy is not installed')

LAYOUT = Path(__file__).resolve().parent.parent / 'config' / 'taolora.foxglove.json'
SHOWN = {'/taolora/events', '/taolora/anomalies', '/diagnostics'}
PATH = re.compile(r'(?P<topic>/[a-z_/]+)(\{(?P<filter>\w+)=="\w+"\})?(\.(?P<field>\w+))?')


@pytest.fixture(scope='module')
def layout():
    return json.loads(LAYOUT.read_text())


@pytest.fixture(scope='module')
def published():
    """Give the types of what a running node publishes, by topic."""
    from running_node import NodeProcess, Talker, wait_for

    from rclpy.node import NodeNameNonExistentError
    talker = Talker('foxglove_talker')
    with NodeProcess() as process:
        process.ready()

        def topics():
            try:
                return dict(talker.node.get_publisher_names_and_types_by_node('taolora', '/'))
            except NodeNameNonExistentError:  # not discovered yet
                return {}
        wait_for(lambda: SHOWN <= set(topics()), 60)  # discovery tells bit by bit
        found = {topic: types[0] for topic, types in topics().items()}
    talker.close()
    return found


def panels(part):
    """Return the panels that a layout, or a part of it, is made of."""
    if isinstance(part, str):
        return [part]
    assert part['direction'] in ('row', 'column')
    return panels(part['first']) + panels(part['second'])


def paths(panel):
    """Return the message paths that the settings of a panel name."""
    return [panel[key] for key in ('topicPath', 'topicToRender') if key in panel] + [
        path['value'] for path in panel.get('paths', ())]


def message(of_type):
    """Return the class of a type such as 'taolora_msgs/msg/Event'."""
    package, name = of_type.split('/msg/')
    return getattr(importlib.import_module(f'{package}.msg'), name)


def test_every_panel_is_laid_out_once_and_is_of_a_kind_that_foxglove_has(layout):
    assert sorted(panels(layout['layout'])) == sorted(layout['configById'])
    assert {name.split('!')[0] for name in layout['configById']} == {
        'Table', 'StateTransitions', 'Plot', 'DiagnosticSummary'}


def test_topics_and_fields_are_those_of_the_node(layout, published):
    shown = set()
    for name, panel in layout['configById'].items():
        assert paths(panel), name
        for path in paths(panel):
            part = PATH.fullmatch(path)
            assert part and part['topic'] in published, f'{name}: {path}'
            fields = message(published[part['topic']]).get_fields_and_field_types()
            for field in (part['field'], part['filter']):
                assert field is None or field in fields, f'{name}: {path}'
            shown.add(part['topic'])
    assert shown == SHOWN


def test_streams_are_those_of_the_default_parameters(layout):
    from taolora_ros import spec
    named = set(re.findall(r'stream==\\?"(\w+)', LAYOUT.read_text()))
    assert named == set(spec.SPECS)
