"""The page that ``taolora replay --report`` writes; see page.py."""

from taolora_ros.report.page import check_plotly, write_report

__all__ = ['check_plotly', 'write_report']
