"""Options for onnxruntime's sessions on the CPU, alike for all that read a graph."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnxruntime as ort

from shared.base.cpu import allotted_cores

SPINNING = "session.intra_op.allow_spinning"
"""Threads that wait by turning in circles take the cores that other workers would use."""


def session_options(folder: Path) -> ort.SessionOptions:
    """For a graph with its data in `folder`, on as many cores as this process was given."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry(
        "session.model_external_initializers_file_folder_path", str(folder)
    )
    if count := allotted_cores():
        options.intra_op_num_threads = count
        options.add_session_config_entry(SPINNING, "0")
    return options


def genai_options() -> dict[str, Any]:
    """The same for the session_options of a genai_config.json; empty where the machine is ours."""
    count = allotted_cores()
    return {"intra_op_num_threads": count, SPINNING: "0"} if count else {}
