"""Writes the Python stubs of the schema under ROOT/chatenv_client/_generated.

Usage: ``PYTHON tools/generate_stubs.py ROOT``, where PYTHON has the generators that the Makefile pins.

protoc names a Python module after the path of its schema file. The schema lives under ``chatenv/v1/`` and its
stubs are private to the client, so the compiled descriptors are moved there before the generators see them;
every import then comes out right, and no generated text is edited.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from google.protobuf.descriptor_pb2 import FileDescriptorSet

SCHEMA_ROOT = Path("proto")
SCHEMA_PACKAGE = "chatenv/v1"
STUB_PACKAGE = "chatenv_client/_generated"


def protoc(*arguments: str) -> None:
    """Run the pinned compiler, whose plugins live beside its interpreter; raises CalledProcessError."""
    plugins = Path(sys.executable).parent
    environment = os.environ | {"PATH": f"{plugins}{os.pathsep}{os.environ['PATH']}"}
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *arguments], check=True, env=environment)


def moved(schema_file: str) -> str:
    """The name of a schema file of ours as a file of the stub package; any other name as it is."""
    folder, _, name = schema_file.rpartition("/")
    return f"{STUB_PACKAGE}/{name}" if folder == SCHEMA_PACKAGE else schema_file


def move_descriptors(compiled: Path) -> FileDescriptorSet:
    """Rename our files inside a serialized FileDescriptorSet, imports included, and return the result."""
    descriptors = FileDescriptorSet.FromString(compiled.read_bytes())
    for file in descriptors.file:
        file.name = moved(file.name)
        file.dependency[:] = [moved(dependency) for dependency in file.dependency]
    compiled.write_bytes(descriptors.SerializeToString())
    return descriptors


def generate(root: Path) -> None:
    """Replace the stubs under `root` by ones made from the schema."""
    sources = sorted(path.relative_to(SCHEMA_ROOT).as_posix() for path in SCHEMA_ROOT.rglob("*.proto"))
    target = root / STUB_PACKAGE
    target.mkdir(parents=True, exist_ok=True)
    for stale in target.glob("*_pb2*"):
        stale.unlink()
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder, "schema.binpb")
        described = ("--include_imports", "--include_source_info", f"--descriptor_set_out={compiled}")
        protoc(f"-I{SCHEMA_ROOT}", *described, *sources)
        ours = [file for file in move_descriptors(compiled).file if file.name.startswith(STUB_PACKAGE)]
        messages = [file.name for file in ours]
        services = [file.name for file in ours if file.service]
        moved_in = f"--descriptor_set_in={compiled}"
        protoc(moved_in, f"--python_out={root}", f"--pyi_out={root}", *messages)
        protoc(moved_in, f"--grpc_python_out={root}", f"--mypy_grpc_out=quiet:{root}", *services)


if __name__ == "__main__":
    generate(Path(sys.argv[1]))
