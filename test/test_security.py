"""The SROS 2 policy grants what the node has in the ROS graph, and nothing more."""

import time
from pathlib import Path
from xml.etree import ElementTree

import pytest
from running_node import NodeProcess, Talker, wait_for

CONFIG = Path(__file__).resolve().parent.parent / 'config'
POLICY = CONFIG / 'sros2' / 'taolora.policy.xml'
# Granted beyond what the node has here: simulated time, and a service that Humble does not have.
GRANTED_AHEAD = {'publish': set(), 'subscribe': {'/clock'}, 'reply': {'~/get_type_description'},
                 'request': set()}
# Of this test alone: nodes that other tests killed stay in the graph for a while.
NAMESPACE = '/policy'


def full_name(name):
    """Return a name as SROS 2 expands it for the node taolora in NAMESPACE."""
    if name.startswith('~'):
        return f'{NAMESPACE}/taolora{name[1:]}'
    return name if name.startswith('/') else f'{NAMESPACE}/{name}'


@pytest.fixture(scope='module')
def profile():
    """Give the one profile of the policy."""
    profile, = ElementTree.parse(POLICY).iter('profile')
    return profile


@pytest.fixture(scope='module')
def granted(profile):
    """Give the names that are granted, by what may be done with them."""
    return {kind: {full_name(name.text) for group in profile if group.get(kind) for name in group}
            for kind in GRANTED_AHEAD}


def in_graph(talker):
    """Return the names that the node has in the ROS graph, by what it does with them."""
    names = {'publish': talker.node.get_publisher_names_and_types_by_node,
             'subscribe': talker.node.get_subscriber_names_and_types_by_node,
             'reply': talker.node.get_service_names_and_types_by_node,
             'request': talker.node.get_client_names_and_types_by_node}
    return {kind: {name for name, _ in ask('taolora', NAMESPACE)} for kind, ask in names.items()}


def missing(granted, seen):
    """Return what is granted for use, and is not in the graph."""
    return {name for kind, ahead in GRANTED_AHEAD.items()
            for name in granted[kind] - seen[kind] - set(map(full_name, ahead))}


@pytest.fixture(scope='module')
def present(granted):
    """Give what the node has in the graph when it runs with the shipped parameters."""
    talker = Talker()
    try:
        with NodeProcess('--params-file', str(CONFIG / 'taolora.yaml'),
                         '-p', 'publish_scores:=true', '-r', f'__ns:={NAMESPACE}') as node:
            node.ready()
            there = ('taolora', NAMESPACE)
            wait_for(lambda: there in talker.node.get_node_names_and_namespaces(), 60)
            seen, end = [in_graph(talker)], time.monotonic() + 60
            while missing(granted, seen[-1]) and time.monotonic() < end:
                seen = [in_graph(talker)]
                time.sleep(0.1)
            while len(seen) < 4 or seen[-1] != seen[-3]:  # discovery tells bit by bit
                time.sleep(0.5)
                seen.append(in_graph(talker))
            return seen[-1]
    finally:
        talker.close()


def test_policy_has_the_form_that_sros2_reads(profile):
    policy = ElementTree.parse(POLICY).getroot()
    assert policy.tag == 'policy' and policy.attrib == {'version': '0.2.0'}
    assert [e.get('path') for e in policy.findall('enclaves/enclave')] == ['/taolora']
    assert policy.find('enclaves/enclave/profiles/profile') is not None
    assert profile.attrib == {'ns': '/', 'node': 'taolora'}
    kinds = {'topics': {'publish', 'subscribe'}, 'services': {'reply', 'request'}}
    for group in profile:
        assert group.attrib and set(group.attrib) <= kinds[group.tag]
        assert set(group.attrib.values()) == {'ALLOW'}
        assert {f'{name.tag}s' for name in group} == {group.tag}
        assert '*' not in ''.join(name.text for name in group)


@pytest.mark.parametrize('kind', GRANTED_AHEAD)
def test_policy_grants_all_that_the_node_has(granted, present, kind):
    assert present[kind] - granted[kind] == set()


@pytest.mark.parametrize('kind', GRANTED_AHEAD)
def test_policy_grants_nothing_that_the_node_has_no_use_for(granted, present, kind):
    assert granted[kind] - present[kind] - set(map(full_name, GRANTED_AHEAD[kind])) == set()
