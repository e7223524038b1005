"""The ROS 2 node ``taolora``: subscriptions, parameters, services and publishers around a worker.

The executor's thread answers services, parameters and timers; the worker's thread takes messages
``poll_rate`` times a second, runs the network and publishes.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor, SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile
from std_srvs.srv import Trigger
from taolora_msgs import msg

from taolora_ros import parameters
from taolora_ros.conversions import make_converter
from taolora_ros.decode import Event
from taolora_ros.detector import Detector, Settings
from taolora_ros.diagnostics import StreamDiagnostics
from taolora_ros.event_messages import anomaly_message, event_message, model_info_message
from taolora_ros.features import feature_names
from taolora_ros.intake import Intake
from taolora_ros.shipped import find_model
from taolora_ros.worker import Feed, Worker

OUTPUT = QoSProfile(depth=100)
NO_ADAPTATION = 'adaptation is not enabled: this version of taolora_ros does not adapt models'


class TaoloraNode(Node):
    """Detects events and anomalies on the streams that its parameters describe.

    Raise ValueError with one line that names parameter, value and what is right when a parameter
    is wrong, a model cannot be loaded or a message type is not there.
    """

    def __init__(self, **options):
        super().__init__('taolora', **options)
        values = {p.name: self._declare(p, p.name, p.default) for p in parameters.NODE}
        streams = parameters.checked_streams(values['streams'])
        self._events = self.create_publisher(msg.Event, '~/events', OUTPUT)
        self._anomalies = self.create_publisher(msg.Anomaly, '~/anomalies', OUTPUT)
        self._model_info = self.create_publisher(msg.ModelInfo, '~/model_info', QoSProfile(
            depth=len(streams), durability=DurabilityPolicy.TRANSIENT_LOCAL))
        self._diagnostics = self.create_publisher(DiagnosticArray, '/diagnostics', OUTPUT)
        self._engines = {}
        self._feeds: dict[str, Feed] = {}
        self._described: list[StreamDiagnostics] = []
        self._reported: dict[str, str] = {}
        for stream in streams:
            self._add_stream(stream, values['engine'], values['device'])
        for sentence in parameters.unknown(getattr(self, '_parameter_overrides', ()), streams):
            self.get_logger().warning(sentence)
        self._offer(streams)
        self._worker = Worker(list(self._feeds.values()), self._publish, self._report,
                              1.0 / values['poll_rate'])
        self._worker.start()
        self.get_logger().info('ready: ' + ', '.join(
            f'{d.feed.name} ({d.intake.topic}, {d.feed.detector.spec.name} on {d.engine})'
            for d in self._described))

    def _offer(self, streams: list[str]) -> None:
        """Open what others can call: live parameters, services, feedback; start diagnostics."""
        if hasattr(self, 'add_pre_set_parameters_callback'):
            self.add_pre_set_parameters_callback(self._coerce)
        self.add_on_set_parameters_callback(self._judge)
        if hasattr(self, 'add_post_set_parameters_callback'):
            self.add_post_set_parameters_callback(lambda changes: self._apply())
            self._later = None
        else:  # Humble: apply when the executor comes round, after the values have been stored
            self._later = self.create_guard_condition(self._apply)
        self.create_service(Trigger, '~/calibrate', self._calibrate)
        self.create_service(Trigger, '~/save_adaptation', self._refuse_adaptation)
        self.create_service(Trigger, '~/reset_adaptation', self._refuse_adaptation)
        self.create_subscription(msg.Feedback, '~/feedback', self._take_feedback, OUTPUT)
        # By a clock of its own: diagnostics must go on when /clock stands still.
        self._clock_of_diagnostics = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=self._clock_of_diagnostics)

    def stop(self) -> None:
        """End the worker."""
        if hasattr(self, '_worker'):
            self._worker.stop()

    # start-up

    def _declare(self, p: parameters.Parameter, name: str, default):
        """Declare a parameter with the value given from outside or ``default``; return it.

        What is given is read without a type first, so that 1 is good for 1.0 and a wrong value
        is refused in our words.
        """
        given = self.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
        self.undeclare_parameter(name)
        value = default if given is None else p.checked(given, name)
        if value is None:
            return None
        value = list(value) if p.kind is list else value
        descriptor = ParameterDescriptor(description=p.meaning, read_only=not p.dynamic,
                                         additional_constraints=', '.join(p.choices))
        if p.kind is float:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=p.low, to_value=p.high, step=0.0)]
        self.declare_parameter(name, value, descriptor, ignore_override=True)
        return value

    def _add_stream(self, stream: str, engine_name: str, device: str) -> None:
        """Load a stream's model, subscribe to its topic and announce it."""
        given = parameters.checked_stream(stream, {
            p.name: self._declare(p, f'{stream}.{p.name}', parameters.default(p, stream))
            for p in parameters.STREAM if not p.dynamic})
        model, engine = self._load(stream, given['model'], engine_name, device)
        settings = self._declare_settings(stream, model.spec)
        with _said_of(f'{stream}.'):
            converter = make_converter(given['type'], model.spec, given['field'],
                                       given['sample_rate'], given['unit'])
            intake = Intake(self, given['topic'], given['type'], converter.raw)
        feed = Feed(stream, intake.take, converter,
                    Detector(model.spec, engine, settings, stream), engine)
        self._feeds[stream] = feed
        self._described.append(StreamDiagnostics(
            self.get_name(), feed, intake, f'{engine.name} on {engine.device}'))
        self._model_info.publish(model_info_message(
            stream, model.spec, 4 if model.precision == 'int4' else 32, model.rank,
            sum(t.numel() * t.element_size() for t in model.tensors.values())))
        if not converter.stamped:
            self.get_logger().warning(
                f'{stream}: {given["type"]} has no header: samples are stamped by their arrival, '
                f'evened out at {given["sample_rate"]:g} Hz')

    def _load(self, stream: str, name: str, engine_name: str, device: str):
        """Return the model called ``name`` and its engine, the same for all streams that use it."""
        import torch  # takes seconds, so only when it is needed

        from taolora_ros.engine import make_engine
        from taolora_ros.model_file import load_model
        # Windows are small, and threads that wait for each other on busy cores make them 5 to 30
        # times slower than one thread is.
        torch.set_num_threads(1)
        with _said_of(f'{stream}.model: '):
            path = find_model(name)
            model = self._engines[path][0] if path in self._engines else load_model(path)
        if path not in self._engines:
            engine = make_engine(model, engine_name, device)
            rest = np.zeros((1, model.spec.window, len(feature_names(model.spec))), np.float32)
            # Once now: the first run is slow, and a device that fails should fail the start.
            engine.run(rest, np.zeros((1, model.spec.tokens), bool))
            self._engines[path] = model, engine
        return self._engines[path]

    def _declare_settings(self, stream: str, spec) -> Settings:
        """Declare a stream's live parameters, by default the model's; return them."""
        own = Settings.default(spec)
        values = {p.name: self._declare(p, f'{stream}.{p.name}', getattr(own, p.name))
                  for p in parameters.STREAM if p.dynamic}
        return parameters.changed(stream, own, spec, values)

    # the worker's thread

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

    # the executor's thread: live parameters

    def _coerce(self, changes: list[Parameter]) -> list[Parameter]:
        """Read whole numbers as floating point where that is what a parameter is."""
        return [Parameter(p.name, Parameter.Type.DOUBLE, float(p.value))
                if p.type_ == Parameter.Type.INTEGER and self.has_parameter(p.name)
                and self.get_parameter(p.name).type_ == Parameter.Type.DOUBLE else p
                for p in changes]

    def _judge(self, changes: list[Parameter]) -> SetParametersResult:
        """Say whether all ``changes`` together are valid; nothing is altered."""
        try:
            for stream, feed in self._feeds.items():
                new = {p.name.split('.', 1)[1]: p.value for p in changes
                       if p.name in self._live_names(stream)}
                parameters.changed(stream, self._settings(stream), feed.detector.spec, new)
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._later:
            self._later.trigger()
        return SetParametersResult(successful=True)

    def _apply(self) -> None:
        """Hand the parameters as they are now to the detectors, each stream's at once."""
        for stream, feed in self._feeds.items():
            settings = self._settings(stream)
            if settings != feed.detector.settings:
                feed.apply(settings)

    def _live_names(self, stream: str) -> list[str]:
        return [f'{stream}.{name}' for name in parameters.TUNABLE]

    def _settings(self, stream: str) -> Settings:
        """Return a stream's settings as its parameters are stored."""
        return Settings(**{name: self.get_parameter(f'{stream}.{name}').value
                           for name in parameters.TUNABLE})

    # the executor's thread: services, feedback, diagnostics

    def _calibrate(self, request, response):
        """Take what each stream delivered recently as its normal state."""
        response.success, told = True, []
        for feed in self._feeds.values():
            try:
                feed.calibrate()
                told.append(f'{feed.name}: calibrated')
            except ValueError as error:
                response.success = False
                told.append(f'{feed.name}: {error}')
        response.message = '; '.join(told)
        return response

    def _refuse_adaptation(self, request, response):
        response.success, response.message = False, NO_ADAPTATION
        return response

    def _take_feedback(self, feedback: msg.Feedback) -> None:
        self.get_logger().warning(f'feedback on {feedback.event_id!r} is not used: {NO_ADAPTATION}',
                                  once=True)

    def _publish_diagnostics(self) -> None:
        """Publish one status for each stream, and log a new problem once."""
        array = DiagnosticArray()
        array.header.stamp = self.get_clock().now().to_msg()
        for described in self._described:
            array.status.append(described.status())
            name, problem = described.feed.name, described.feed.problem
            if problem and self._reported.get(name) != problem:
                self._reported[name] = problem
                self.get_logger().warning(f'{name}: {problem}')
        self._diagnostics.publish(array)


@contextmanager
def _said_of(what: str):
    """Begin the message of a ValueError with what it is about."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f'{what}{error}') from error
