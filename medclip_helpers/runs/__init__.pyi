from .environment import environment_report, versions
from .execution import run_all
from .parameters import Parameter, check_parameters, known_parameters, validate
from .report import one_line, varying, write_report
from .results import describe_model, markdown_table, read_result, record_result
from .sweep import Run, notebook_parameters, plan, plan_files, read_sweep

__all__ = [
    "Parameter",
    "Run",
    "check_parameters",
    "describe_model",
    "environment_report",
    "known_parameters",
    "markdown_table",
    "notebook_parameters",
    "one_line",
    "plan",
    "plan_files",
    "read_result",
    "read_sweep",
    "record_result",
    "run_all",
    "validate",
    "varying",
    "versions",
    "write_report",
]
