from .environment import environment_report, versions
from .execution import run_all
from .parameters import Parameter, check_parameters, known_parameters, validate
from .report import write_report
from .results import describe_model, markdown_table, record_result, write_results
from .sweep import Run, plan, read_sweep

__all__ = [
    "Parameter",
    "Run",
    "check_parameters",
    "describe_model",
    "environment_report",
    "known_parameters",
    "markdown_table",
    "plan",
    "read_sweep",
    "record_result",
    "run_all",
    "validate",
    "versions",
    "write_report",
    "write_results",
]
