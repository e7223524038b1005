"""The ROS 2 node ``taolora``, a managed node: its states, publishers, services and streams.

    unconfigured  parameters are declared; no model is loaded
    inactive      models are loaded, live parameters can be set; no subscription, no thread
    active        subscribed; a worker's two threads collect messages, decide and publish

The executor's thread answers services, parameters and timers in every state. How the node goes from
one to another is in managed_node.py.
"""

from __future__ import annotations

import time

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.clock import Clock, ClockType
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from taolora_msgs import msg

from taolora_ros import lifecycle_services, parameters
from taolora_ros.adapting import Adapting
from taolora_ros.conversions import make_converter, nanoseconds
from taolora_ros.decode import Event
from taolora_ros.detector import Detector
from taolora_ros.diagnostics import plain_status
from taolora_ros.event_messages import anomaly_message, event_message, model_info_message
from taolora_ros.feed import Feed
from taolora_ros.jetson import board_report
from taolora_ros.live_parameters import LiveParameters
from taolora_ros.managed_node import ManagedNode
from taolora_ros.models import Models, said_of
from taolora_ros.running import Running
from taolora_ros.shipped import find_model
from taolora_ros.worker import Worker

OUTPUT = QoSProfile(depth=100)
UNSTAMPED = '{}: {} has no header: samples are stamped by their arrival, evened out at {:g} Hz'


class TaoloraNode(ManagedNode):
    """Detects events and anomalies on the streams that its parameters describe.

    Raise ValueError with one line that names parameter, value and what is right when a parameter
    is wrong.
    """

    def __init__(self, **options):
        super().__init__('taolora', **options)
        self._streams: dict[str, Running] = {}
        self._worker: Worker | None = None
        self._model_info = self._feedback = None
        self._adapting: Adapting | None = None  # until its parameters are declared
        self._reported: dict[tuple[str, int], str] = {}
        self._parameters_live = LiveParameters(self, self._follow_parameters)
        declare = self._parameters_live.declare
        self._values = {p.name: declare(p, p.name, p.default) for p in parameters.NODE}
        self._values |= self._parameters_live.declare_adaptation()
        self._adapting = self._nothing_learns()
        streams = parameters.checked_streams(self._values['streams'])
        self._given = {stream: parameters.checked_stream(stream, {
            p.name: declare(p, f'{stream}.{p.name}', parameters.default(p, stream))
            for p in parameters.STREAM if not p.dynamic}) for stream in streams}
        for sentence in parameters.unknown(getattr(self, '_parameter_overrides', ()), streams):
            self.get_logger().warning(sentence)
        self._offer()
        lifecycle_services.answer_always(self)

    @property
    def autostart(self) -> bool:
        """Return whether the node is to be active without being asked."""
        return self._values['autostart']

    def stop(self) -> None:
        """End all threads at once; what was learnt is saved."""
        if self._worker:
            self._worker.stop()
        if self._adapting:
            self._adapting.close()

    def _offer(self) -> None:
        """Open what there is in every state: publishers, services and diagnostics."""
        self._events = self.create_lifecycle_publisher(msg.Event, '~/events', OUTPUT)
        self._anomalies = self.create_lifecycle_publisher(msg.Anomaly, '~/anomalies', OUTPUT)
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        self.create_service(Trigger, '~/calibrate', self._calibrate)
        for name in ('save', 'reset'):
            self.create_service(Trigger, f'~/{name}_adaptation',
                                lambda request, response, name=name: self._answer(
                                    response, *getattr(self._adapting, name)()))
        # By a clock of its own: diagnostics must go on when /clock stands still.
        self._clock_of_diagnostics = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=self._clock_of_diagnostics)

    # what transitions do

    def _configure(self) -> None:
        """Load the models and announce them."""
        models = Models(self._values['engine'], self._values['device'],
                        [given['model'] for given in self._given.values()])
        self._adapting = self._nothing_learns()
        self._model_info = self.create_publisher(msg.ModelInfo, '~/model_info', QoSProfile(
            depth=len(self._given), durability=DurabilityPolicy.TRANSIENT_LOCAL))
        for stream, given in self._given.items():
            model, engine = models.load(f'{stream}.model', given['model'])
            settings = self._parameters_live.declare_settings(stream, model.spec)
            with said_of(f'{stream}.'):
                converter = make_converter(given['type'], model.spec, given['field'],
                                           given['sample_rate'], given['unit'],
                                           given['stamps'])
            feed = Feed(stream, converter, Detector(model.spec, engine, settings, stream), engine)
            self._streams[stream] = Running(feed, f'{engine.name} on {engine.device}', given)
            self._parameters_live.feeds[stream] = feed
            self._adapting.attach(find_model(given['model']), engine, feed)
            self._model_info.publish(model_info_message(
                stream, model.spec, 4 if model.precision == 'int4' else 32, model.rank,
                sum(t.numel() * t.element_size() for t in model.tensors.values())))
            if not converter.stamped:
                self.get_logger().warning(UNSTAMPED.format(
                    stream, given['type'], given['sample_rate']))
        for line in board_report():
            self.get_logger().info(line)

    def _activate(self) -> None:
        """Subscribe and start to decide."""
        for stream, running in self._streams.items():
            with said_of(f'{stream}.'):
                running.subscribe(self)
        self._feedback = self.create_subscription(msg.Feedback, '~/feedback', self._take_feedback,
                                                  OUTPUT)
        self._follow_parameters()
        self._worker = Worker([running.feed for running in self._streams.values()], self._publish,
                              self._report, 1.0 / self._values['poll_rate'],
                              self._values['max_lag'], self._time)
        self._worker.start()
        for engine in {id(r.feed.engine): r.feed.engine for r in self._streams.values()}.values():
            self.get_logger().info(f'{engine.name} on {engine.device}: {engine.why}')
        self.get_logger().info('ready: ' + ', '.join(
            f'{stream} ({running.intake.topic}, {running.feed.detector.spec.name} on '
            f'{running.engine})' for stream, running in self._streams.items()))

    def _rest(self, finish: bool = False) -> None:
        """Undo ``_activate``; with ``finish``, decide and publish what has been collected."""
        worker, self._worker = self._worker, None
        if worker:
            worker.stop()
        for running in self._streams.values():
            running.unsubscribe()
        if worker and finish:
            worker.finish()
        if self._feedback:
            self.destroy_subscription(self._feedback)
            self._feedback = None
        self._follow_parameters()

    def _forget(self) -> None:
        """Let go of the models, and of live parameters as they were set."""
        self._adapting.close()
        self._streams.clear()
        self._parameters_live.forget()
        if self._model_info:
            self.destroy_publisher(self._model_info)
            self._model_info = None

    # the worker's threads

    def _publish(self, feed: Feed, result, latency: float) -> None:
        spec, frame_id = feed.detector.spec, feed.converter.frame_id
        if isinstance(result, Event):
            self._events.publish(event_message(result, feed.name, frame_id, spec, latency))
        else:
            self._anomalies.publish(anomaly_message(result, feed.name, frame_id, spec))

    def _report(self, feed: Feed, error: Exception) -> None:
        if self.context.ok():  # after a shutdown nothing can be published, and nobody minds
            self.get_logger().error(f'{feed.name}: {type(error).__name__}: {error}',
                                    throttle_duration_sec=5.0)

    def _time(self) -> int:
        """Return the time (ns) by which streams are silent: /clock where that is time."""
        clock = self.get_clock()
        return clock.now().nanoseconds if clock.ros_time_is_active else time.monotonic_ns()

    # the executor's thread: parameters, services, feedback, diagnostics

    def _follow_parameters(self) -> None:
        """Adapt as the parameters say; open or close the topics of scores, by the state too."""
        if self._adapting:
            self._adapting.apply(self._parameters_live.adaptation())
        wanted = self._feedback is not None and self.get_parameter('publish_scores').value
        for running in self._streams.values():
            running.publish_scores(self, wanted)

    def _calibrate(self, request, response):
        """Take what each stream delivered recently as its normal state."""
        response.success, told = bool(self._streams), []
        for stream, running in self._streams.items():
            try:
                running.feed.calibrate()
                told.append(f'{stream}: calibrated')
            except ValueError as error:
                response.success = False
                told.append(f'{stream}: {error}')
        return self._answer(response, response.success,
                            '; '.join(told) or 'the node is not configured')

    @staticmethod
    def _answer(response, success: bool, message: str):
        response.success, response.message = success, message
        return response

    def _nothing_learns(self) -> Adapting:
        """Return what holds no learner yet."""
        return Adapting(self._parameters_live.adaptation(), self._values['directory'],
                        self._values['robot'], self.get_fully_qualified_name(),
                        self.get_logger())

    def _take_feedback(self, feedback: msg.Feedback) -> None:
        self._adapting.take(feedback.event_id, feedback.correct, feedback.label,
                            float(feedback.quality), nanoseconds(feedback.header.stamp))

    def _publish_diagnostics(self) -> None:
        """Publish one status for each stream, and log a new problem once; consolidate if due."""
        self._adapting.tick()
        pause = self._worker.longest_break() if self._worker else 0.0
        array = DiagnosticArray(status=[self._status(stream, pause) for stream in self._given])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)
        for stream, running in self._streams.items():
            notice = running.diagnostics.notice if running.diagnostics else ''
            for kind, problem in enumerate((running.feed.problem, notice)):
                if problem and self._reported.get((stream, kind)) != problem:
                    self._reported[stream, kind] = problem
                    self.get_logger().warning(f'{stream}: {problem}')

    def _status(self, stream: str, intake_break: float) -> DiagnosticStatus:
        running = self._streams.get(stream)
        if running and running.diagnostics:
            return running.diagnostics.status(
                self._time(), intake_break, self._adapting.status(stream),
                self._adapting.problem(stream))
        state = 'inactive' if running else 'unconfigured'
        if self.failure:
            return plain_status(self.get_name(), stream, DiagnosticStatus.ERROR,
                                f'{state}: {self.failure}')
        return plain_status(self.get_name(), stream, DiagnosticStatus.OK, state)
