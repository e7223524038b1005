"""Messages taken from a subscription in batches, outside the executor.

The executor's wait set costs several times what taking a message does, so the subscription is
kept out of it and emptied by whoever calls ``take``.
"""

from __future__ import annotations

import time

from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import QoSCompatibility, QoSPolicyKind, QoSProfile, ReliabilityPolicy
from rclpy.qos import qos_check_compatible, qos_policy_name_from_kind
from rclpy.qos_overriding_options import QoSOverridingOptions

from taolora_ros import message_types

QUEUED = 4000  # messages: sensor-data QoS, but deep enough for what comes between two calls
POLICIES = ('HISTORY', 'DEPTH', 'RELIABILITY', 'DURABILITY', 'DEADLINE')  # may be overridden


class NotForExecutor(MutuallyExclusiveCallbackGroup):
    """Keeps entities away from the executor.

    QoS events of a subscription too: waiting for them returns at once while messages are there.
    """

    def can_execute(self, entity) -> bool:
        """Return whether the executor may wait for ``entity``."""
        return False


def _all_events():
    """Return callbacks for the events to be noticed; nobody calls them, see ``Intake.events``."""
    try:
        from rclpy.event_handler import SubscriptionEventCallbacks
    except ImportError:  # Humble
        from rclpy.qos_event import SubscriptionEventCallbacks

    def unused(event):
        pass
    return SubscriptionEventCallbacks(deadline=unused, incompatible_qos=unused,
                                      message_lost=unused, use_default_callbacks=False)


class Intake:
    """One subscription, best effort unless ``qos_overrides`` parameters say otherwise.

    With ``raw``, messages are taken as they were serialised, which costs half as much. Raise
    ValueError when ``topic`` cannot be the name of one or may not be subscribed to.
    """

    def __init__(self, node: Node, topic: str, type_name: str, raw: bool = False):
        self._node = node
        self._raw = raw
        self._clock = node.get_clock()
        self._type = message_types.full_name(type_name)
        try:
            self._subscription = node.create_subscription(
                message_types.message_class(type_name), topic, lambda message: None,
                QoSProfile(depth=QUEUED, reliability=ReliabilityPolicy.BEST_EFFORT),
                callback_group=NotForExecutor(), event_callbacks=_all_events(),
                qos_overriding_options=QoSOverridingOptions(
                    [QoSPolicyKind[name] for name in POLICIES]))
        except NameValidationException as error:
            reason = str(error).split(':')[1].strip()
            raise ValueError(f'topic: {topic!r}: {reason}') from error
        except RuntimeError as error:  # the middleware's, e.g. because a policy forbids it
            raise ValueError(f'topic: cannot subscribe to {topic!r} (with SROS 2: is it granted '
                             f'by the policy?): {error}') from error
        self.topic = self._subscription.topic_name

    def close(self) -> None:
        """Unsubscribe."""
        self._node.destroy_subscription(self._subscription)

    def events(self) -> dict[str, object]:
        """Return what the middleware has noticed so far, by the name of the event.

        ``deadline`` and ``lost`` count missed deadlines and messages, ``refused`` publishers of
        incompatible quality of service, ``policy`` names the policy at which the last of them
        failed; what this middleware does not tell is absent.
        """
        seen: dict[str, object] = {}
        for handler in self._subscription.event_handlers:
            # As if a wait set had said that it is ready: they are kept out of the executor.
            handler._ready_to_take_data = True
            event, kind = handler.take_data(), handler.event_type.name
            if event is None:
                continue
            if kind.endswith('DEADLINE_MISSED'):
                seen['deadline'] = event.total_count
            elif kind.endswith('MESSAGE_LOST'):
                seen['lost'] = event.total_count
            elif kind.endswith('INCOMPATIBLE_QOS') and event.total_count:
                seen['refused'] = event.total_count
                seen['policy'] = qos_policy_name_from_kind(event.last_policy_kind)
        return seen

    def obstacle(self) -> str:
        """Return in words why no message can come, '' when there is no reason."""
        publishers = self._node.get_publishers_info_by_topic(self.topic)
        reasons = {self._mismatch(publisher) for publisher in publishers}
        if not publishers:
            return 'nobody publishes it'
        return '' if '' in reasons else '; '.join(sorted(reasons))

    def _mismatch(self, publisher) -> str:
        if publisher.topic_type != self._type:
            return f'it is published as {publisher.topic_type}, not as {self._type}'
        compatible, reason = qos_check_compatible(
            publisher.qos_profile, self._subscription.qos_profile)
        if compatible == QoSCompatibility.ERROR:
            return f'the quality of service asked for is not what is offered: {reason}'
        return ''

    def take(self) -> tuple[list, list[int], int]:
        """Return what waits: messages, stand-ins for their stamps (ns), last arrival (ns)."""
        taken, kind, handle = [], self._subscription.msg_type, self._subscription.handle
        with handle:
            while len(taken) < QUEUED and (one := handle.take_message(kind, self._raw)):
                taken.append(one)
        if not taken:
            return [], [], 0
        messages = [message for message, _ in taken]
        arrivals = [info.get('received_timestamp') or time.time_ns() for _, info in taken]
        arrived = arrivals[-1]
        if self._clock.ros_time_is_active:  # simulated time has no other clock of arrival
            arrivals = [self._clock.now().nanoseconds] * len(messages)
        return messages, arrivals, arrived
