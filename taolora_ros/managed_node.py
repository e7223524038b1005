"""A managed node's way through its states; what is done on it is up to who inherits.

Source of the states: design.ros2.org/articles/node_lifecycle.html.
"""

from __future__ import annotations

from collections.abc import Callable

from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

SUCCESS, FAILURE, ERROR = (TransitionCallbackReturn.SUCCESS, TransitionCallbackReturn.FAILURE,
                           TransitionCallbackReturn.ERROR)


class ManagedNode(LifecycleNode):
    """Goes from state to state by ``_configure``, ``_activate``, ``_rest`` and ``_forget``.

    ``failure`` is why the last transition failed, None when it did not.
    """

    def __init__(self, name: str, **options):
        super().__init__(name, **options)
        self.failure: Exception | None = None
        self._quietly = False  # a failed transition is told by whoever asked for it

    def bring_up(self) -> None:
        """Configure and activate; raise what is in the way."""
        self._quietly = True
        try:
            for trigger in (self.trigger_configure, self.trigger_activate):
                if trigger() != SUCCESS:
                    raise self.failure
        finally:
            self._quietly = False

    def on_configure(self, state) -> TransitionCallbackReturn:
        """Configure; FAILURE, and still unconfigured, when something is in the way."""
        return self._attempt('configure', self._configure, self._forget)

    def on_activate(self, state) -> TransitionCallbackReturn:
        """Activate; FAILURE, and still inactive, when something is in the way."""
        super().on_activate(state)
        result = self._attempt('activate', self._activate, self._rest)
        if result != SUCCESS:
            super().on_deactivate(state)
        return result

    def on_deactivate(self, state) -> TransitionCallbackReturn:
        """Finish what is there to do, and rest."""
        try:
            self._rest(finish=True)
            return super().on_deactivate(state)
        except Exception as error:
            return self._failed('deactivate', error, ERROR)

    def on_cleanup(self, state) -> TransitionCallbackReturn:
        """Let go of what was configured."""
        self._forget()
        return SUCCESS

    def on_shutdown(self, state) -> TransitionCallbackReturn:
        """Let go of everything, from any state."""
        self._rest()
        self._forget()
        return SUCCESS

    def on_error(self, state) -> TransitionCallbackReturn:
        """Be unconfigured again after something unforeseen."""
        return self.on_shutdown(state)

    def _attempt(self, what: str, step: Callable[[], None], undo: Callable[[], None]
                 ) -> TransitionCallbackReturn:
        try:
            step()
        except Exception as error:
            undo()
            return self._failed(what, error, FAILURE)
        self.failure = None
        return SUCCESS

    def _failed(self, what: str, error: Exception, result) -> TransitionCallbackReturn:
        self.failure = error
        if not self._quietly:
            self.get_logger().error(f'cannot {what}: {error}')
        return result

    def _configure(self) -> None:
        """Load what is needed; raise what is in the way."""
        raise NotImplementedError

    def _activate(self) -> None:
        """Begin to work; raise what is in the way."""
        raise NotImplementedError

    def _rest(self, finish: bool = False) -> None:
        """Undo ``_activate``, also in part; with ``finish``, do first what is there to do."""
        raise NotImplementedError

    def _forget(self) -> None:
        """Undo ``_configure``, also in part."""
        raise NotImplementedError
