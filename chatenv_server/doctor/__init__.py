"""The doctor: audits a tokenizer and its chat template before a training run.

`checkup` examines one tokenizer or a folder; `facts` reads off what the template does; `examine` plays the `scenarios`
on the engine against `reference`, with turns from `sampling`; `report` says it.
"""

from __future__ import annotations

from chatenv_server.doctor.checkup import Checkup, check, check_folder

__all__ = ["Checkup", "check", "check_folder"]
