"""What rclpy's lifecycle services leave out."""

from __future__ import annotations

from lifecycle_msgs.srv import ChangeState
from rclpy.lifecycle import LifecycleNode


def answer_always(node: LifecycleNode) -> None:
    """Answer requests for transitions that the present state does not have.

    rclpy raises instead, so that whoever asked would wait for ever.
    """
    for service in node.services:
        if service.srv_type is ChangeState:
            service.callback = _answering(node, service.callback)


def _answering(node: LifecycleNode, change):
    def changed(request: ChangeState.Request, response: ChangeState.Response):
        try:
            return change(request, response)
        except RuntimeError as error:  # RCLError is one
            wanted = request.transition.label or request.transition.id
            reason = str(error).split(':')[0]
            node.get_logger().error(f'no transition {wanted} from this state: {reason}')
            response.success = False
            return response
    return changed
