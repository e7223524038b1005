"""Feedback over DDS: it changes the next decision, is kept, and can be taken back."""

import pytest
from doubtful_beats import DOUBTFUL, VENTRICULAR, near, with_doubtful_beats
from playing import SECOND, blocks, excerpt, play, quiet, status
from running_node import NodeProcess, wait_for

from std_srvs.srv import Trigger
from taolora_msgs.msg import Biosignal, Event, Feedback

from taolora_ros.engine import make_engine
from taolora_ros.model_file import load_model
from taolora_ros.shipped import find_model

LENGTH = 15  # s of the recording
TRUE = 2.0, 3.85, 5.77, 9.44  # s: more of its ventricular beats
ECG = {'streams': '[ecg]', 'max_lag': 60.0, 'adaptation__enabled': 'true'}
RELIABLE = '-p', 'qos_overrides./ecg.subscription.reliability:=reliable'


class Node(NodeProcess):
    """A node that leaves in order, so that nobody takes the next one for it."""

    def __exit__(self, *exception):
        self.end()
        super().__exit__(*exception)


class Heart:
    """Plays an ECG to the node again and again, each time later."""

    def __init__(self, talker, signal=None):
        self.signal = excerpt().values[:LENGTH * 360, 0] if signal is None else signal
        self.start = 0
        self.events = talker.listen(Event, '/taolora/events')
        self.publisher = talker.publisher(Biosignal, '/ecg')

    def beats(self):
        """Return what the node found in the next round, by the time in the recording."""
        self.events.clear()
        self.start += 1000 * SECOND
        play(self.publisher, blocks(self.signal, 360, self.start))
        found = quiet(self.events, 10)
        return {round((e.header.stamp.sec * SECOND + e.header.stamp.nanosec - self.start) / 1e7): e
                for e in found}


def scores(found):
    # the last beats are decided when the stream is silent, or with the next round
    return {when: {v.key: v.value for v in e.values}['veb_score'] for when, e in found.items()
            if 0 < when < 100 * (LENGTH - 4)}


def call(talker, name):
    return talker.call(Trigger, f'/taolora/{name}_adaptation')


def test_feedback_changes_the_next_decision_is_kept_and_can_be_taken_back(talker, tmp_path):
    options = {**ECG, 'adaptation__directory': str(tmp_path), 'adaptation__robot': 'r2',
               # true ventricular beats are called wrong here, which the limits would not let pass
               'adaptation__max_lost': 1.0, 'adaptation__doubtful_shift': 3.0}
    with Node(*RELIABLE, **options) as node:
        node.ready()
        heart, feedback = Heart(talker), talker.publisher(Feedback, '/taolora/feedback')
        before = heart.beats()
        ventricular = [e for e in before.values() if e.label == 'veb']
        for number, event in enumerate(ventricular[:3]):  # nothing is learnt without a true one
            feedback.publish(Feedback(event_id=event.id, correct=number == 0, quality=1.0))
        wait_for(lambda: node.output.count(': learnt') == 3, 60)
        learnt = heart.beats()
        assert scores(learnt) != scores(before)
        values = status(talker, 'ecg')[2]
        assert values['adaptation'] == 'on' and int(float(values['adaptation_updates'])) == 3
        assert float(values['adaptation_norm']) > 0
    # it was never asked to save: it does when it ends
    with Node(*RELIABLE, **options) as node:
        node.ready()
        heart = Heart(talker)
        assert scores(heart.beats()) == scores(learnt)
        assert 'what was learnt until' in node.output
        assert call(talker, 'reset').success and call(talker, 'save').success
        assert scores(heart.beats()) == scores(before)


def labels(found, times):
    return [near(found, 100 * at).label for at in times]


def test_with_default_limits_what_was_rejected_is_no_event_the_next_time(talker, tmp_path):
    model = load_model(find_model('ecg_beats'))
    signal = with_doubtful_beats(make_engine(model, device='cpu'), model.spec, LENGTH + 5)
    with Node(*RELIABLE, **ECG, adaptation__directory=str(tmp_path)) as node:
        node.ready()
        heart, feedback = Heart(talker, signal), talker.publisher(Feedback, '/taolora/feedback')
        before = heart.beats()
        assert labels(before, (VENTRICULAR, *DOUBTFUL)) == ['veb'] * 3
        for at in (VENTRICULAR, *DOUBTFUL):
            event = near(before, 100 * at)
            feedback.publish(Feedback(event_id=event.id, correct=at == VENTRICULAR, quality=1.0))
        wait_for(lambda: node.output.count(': learnt') == 3, 60)
        after = heart.beats()
        assert labels(after, (VENTRICULAR, *DOUBTFUL)) == ['veb', 'beat', 'beat']
        assert labels(before, TRUE) == labels(after, TRUE) == ['veb'] * len(TRUE)


@pytest.mark.parametrize('name, value, wrong', [
    ('decay', 0.5, 1.5), ('targets', 'head', 'attention'), ('interval', 5.0, 0.5)])
def test_settings_are_taken_or_refused_while_running(talker, name, value, wrong):
    with Node(**ECG) as node:
        node.ready()
        assert talker.set(**{f'adaptation__{name}': value})[0].successful
        refused = talker.set(**{f'adaptation__{name}': wrong})[0]
        assert not refused.successful and f'adaptation.{name}' in refused.reason


def test_feedback_that_cannot_be_used_is_named_with_its_reason(talker):
    with Node(*RELIABLE, **{**ECG, 'adaptation__enabled': 'false'}) as node:
        node.ready()
        feedback = talker.publisher(Feedback, '/taolora/feedback')

        def said(reason, **fields):
            feedback.publish(Feedback(**{'label': 'veb', 'quality': 1.0, **fields}))
            wait_for(lambda: reason in node.output, 60)
        said('adaptation.enabled is false', event_id='ecg-1-1')
        assert status(talker, 'ecg')[2]['adaptation'] == 'off'
        assert talker.set(adaptation__enabled=True)[0].successful
        said("no stream that 'emg-1-1' could be of", event_id='emg-1-1')
        said('no event that is remembered', event_id='ecg-1-1')
        said("label: 'fall' is none of beat, veb", event_id='ecg-1-2', label='fall')
        said('not decided, or forgotten', event_id='ecg')
        result = talker.set(adaptation__rate=-1.0)[0]
        assert not result.successful and 'adaptation.rate' in result.reason
        together = talker.set_together(adaptation__max_shift=0.01)
        assert not together.successful and 'doubtful_shift' in together.reason


def test_model_without_reference_cannot_learn_and_says_so(talker, tmp_path):
    model = tmp_path / 'mine.safetensors'
    model.write_bytes(find_model('ecg_beats').read_bytes())
    with Node(**ECG, ecg__model=str(model)) as node:
        node.ready()
        assert 'mine.reference.safetensors: no such file' in node.output
        level, message, values = status(talker, 'ecg')
        assert 'no such file' in values['adaptation']
        assert not call(talker, 'save').message.startswith('saved')
