"""The report of training runs: curves, final values, configuration, versions, and what the policy wrote early and late.

Needs no torch: it reads what `aipo train` wrote.
"""

from algorithms.apps.report.charts import make_charts
from algorithms.apps.report.page import build_page
from algorithms.apps.report.runs import TrainingRun, find_runs, read_run
from algorithms.apps.report.summary import config_differences, final_values, to_json, to_markdown

__all__ = [
    "TrainingRun",
    "build_page",
    "config_differences",
    "final_values",
    "find_runs",
    "make_charts",
    "read_run",
    "to_json",
    "to_markdown",
]
