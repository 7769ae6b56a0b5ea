"""The doctor: audits a tokenizer and its chat template before a training run.

`checkup` examines one tokenizer or a folder; `facts` reads off what the template does; `examine` plays the `scenarios`
on the engine against `reference`, with turns from `sampling`; `report` says it.
`task_checkup` plays a task of a user's, and `task_report` says what came of it.
"""

from __future__ import annotations

from chatenv_server.doctor.checkup import Checkup, check, check_folder, check_task_on
from chatenv_server.doctor.task_checkup import TaskCheckup

__all__ = ["Checkup", "TaskCheckup", "check", "check_folder", "check_task_on"]
