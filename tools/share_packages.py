"""Let an environment see the packages of the one that runs this: torch is not installed twice.

.venv/bin/python tools/share_packages.py .venv-other
"""

from __future__ import annotations

import sys
import sysconfig
from pathlib import Path


def main(environment: str) -> None:
    """Write the file that Python reads at its start. What is installed in the environment itself comes first."""
    of_environment = {"base": environment, "platbase": environment}
    packages = Path(sysconfig.get_path("purelib", vars=of_environment))
    shared = sysconfig.get_path("purelib")
    (packages / "shared.pth").write_text(f"import site; site.addsitedir({shared!r})\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
