"""The node's parameters as ROS sees them: declared, judged together, handed to the feeds."""

from __future__ import annotations

from collections.abc import Callable

from rcl_interfaces.msg import (FloatingPointRange, IntegerRange, ParameterDescriptor,
                                SetParametersResult)
from rclpy.node import Node
from rclpy.parameter import Parameter

from taolora_ros import parameter, parameters
from taolora_ros.adaptation.settings import AdaptationSettings
from taolora_ros.feed import Feed
from taolora_ros.settings import Settings
from taolora_ros.spec import ModelSpec


class LiveParameters:
    """Declare parameters on ``node``; ``feeds`` get what changes, ``changed()`` is called then.

    On-set callbacks only judge; what was judged good is applied after it has been stored.
    """

    def __init__(self, node: Node, changed: Callable[[], None]):
        self.feeds: dict[str, Feed] = {}
        self._node = node
        self._changed = changed
        self._declared: list[str] = []  # live parameters of streams
        self._adapts = False            # all parameters of adaptation are declared
        if hasattr(node, 'add_pre_set_parameters_callback'):
            node.add_pre_set_parameters_callback(self._coerce)
        node.add_on_set_parameters_callback(self._judge)
        if hasattr(node, 'add_post_set_parameters_callback'):
            node.add_post_set_parameters_callback(lambda changes: self._apply())
            self._later = None
        else:  # Humble: apply when the executor comes round, after the values have been stored
            self._later = node.create_guard_condition(self._apply)

    def declare(self, p: parameter.Parameter, name: str, default):
        """Declare a parameter with the value given from outside or ``default``; return it.

        What is given is read without a type first, so that 1 is good for 1.0 and a wrong value
        is refused in our words. Raise ValueError for one.
        """
        node = self._node
        given = node.declare_parameter(name, None, ParameterDescriptor(dynamic_typing=True)).value
        node.undeclare_parameter(name)
        value = default if given is None else p.checked(given, name)
        if value is None:
            return None
        value = list(value) if p.kind is list else value
        descriptor = ParameterDescriptor(description=p.meaning, read_only=not p.dynamic,
                                         additional_constraints=', '.join(p.choices))
        if p.kind is int:
            descriptor.integer_range = [
                IntegerRange(from_value=int(p.low), to_value=int(p.high), step=0)]
        if p.kind is float:
            descriptor.floating_point_range = [
                FloatingPointRange(from_value=p.low, to_value=p.high, step=0.0)]
        node.declare_parameter(name, value, descriptor, ignore_override=True)
        return value

    def declare_settings(self, stream: str, spec: ModelSpec) -> Settings:
        """Declare a stream's live parameters, by default the model's; return them."""
        own, values = Settings.default(spec), {}
        for p in parameters.STREAM:
            if p.dynamic:
                self._declared.append(f'{stream}.{p.name}')
                values[p.name] = self.declare(p, f'{stream}.{p.name}', getattr(own, p.name))
        return parameters.changed(stream, own, spec, values)

    def declare_adaptation(self) -> dict[str, object]:
        """Declare all of ``adaptation.*``; return the read-only ones by name."""
        values = {p.name: self.declare(p, f'adaptation.{p.name}', p.default)
                  for p in parameters.ADAPTATION}
        parameters.adaptation({name: values[name] for name in parameters.LEARNABLE})
        self._adapts = True
        return {name: values[name] for name in values if name not in parameters.LEARNABLE}

    def adaptation(self) -> AdaptationSettings:
        """Return the settings of adaptation as its parameters are stored."""
        return parameters.adaptation(self._adaptation())

    def _adaptation(self) -> dict[str, object]:
        return {name: self._node.get_parameter(f'adaptation.{name}').value
                for name in parameters.LEARNABLE}

    def forget(self) -> None:
        """Undeclare all live parameters of streams."""
        declared, self._declared, self.feeds = self._declared, [], {}
        for name in filter(self._node.has_parameter, declared):
            self._node.undeclare_parameter(name)

    def _coerce(self, changes: list[Parameter]) -> list[Parameter]:
        """Read whole numbers as floating point where that is what a parameter is."""
        node = self._node
        return [Parameter(p.name, Parameter.Type.DOUBLE, float(p.value))
                if p.type_ == Parameter.Type.INTEGER and node.has_parameter(p.name)
                and node.get_parameter(p.name).type_ == Parameter.Type.DOUBLE else p
                for p in changes]

    def _judge(self, changes: list[Parameter]) -> SetParametersResult:
        """Say whether all ``changes`` together are valid; nothing is altered."""
        try:
            for stream, feed in self.feeds.items():
                live = {f'{stream}.{name}' for name in parameters.TUNABLE}
                new = {p.name.split('.', 1)[1]: p.value for p in changes if p.name in live}
                if new:
                    parameters.changed(stream, self._settings(stream), feed.detector.spec, new)
            new = {p.name.split('.', 1)[1]: p.value for p in changes
                   if p.name in (f'adaptation.{name}' for name in parameters.LEARNABLE)}
            if new and self._adapts:
                parameters.adaptation({**self._adaptation(), **new})
        except ValueError as error:
            return SetParametersResult(successful=False, reason=str(error))
        if self._later:
            self._later.trigger()
        return SetParametersResult(successful=True)

    def _apply(self) -> None:
        """Hand the parameters as they are now to the detectors, each stream's at once."""
        for stream, feed in self.feeds.items():
            settings = self._settings(stream)
            if settings != feed.detector.settings:
                feed.apply(settings)
        self._changed()

    def _settings(self, stream: str) -> Settings:
        """Return a stream's settings as its parameters are stored."""
        return Settings(**{name: self._node.get_parameter(f'{stream}.{name}').value
                           for name in parameters.TUNABLE})
