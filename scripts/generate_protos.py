#!/usr/bin/env python3
"""Generates service/tidegate/wire/stubs from protos/; with --check, only says whether they are current.

protoc writes imports by the proto's package (`from tidegate.v1 import ...`), a package that we do not have: they are
rewritten to where the stubs lie. Descriptors keep their names (`tidegate/v1/types.proto`), so the wire is unchanged.
"""

import re
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
STUBS = ROOT / "service" / "tidegate" / "wire" / "stubs"
INIT = '"""Generated from protos/ by `make proto`. Do not edit."""\n'


def generate() -> dict[str, str]:
    """The text of each stub by file name."""
    sources = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / "tidegate" / "v1").glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        arguments = [f"--python_out={folder}", f"--pyi_out={folder}", f"--grpc_python_out={folder}"]
        well_known = str(resources.files("grpc_tools") / "_proto")
        if protoc.main(["protoc", f"-I{PROTOS}", f"-I{well_known}", *arguments, *sources]) != 0:
            sys.exit("protoc refused the sources")
        files = sorted((Path(folder) / "tidegate" / "v1").iterdir())
        stubs = {path.name: rewritten(path.read_text()) for path in files if has_content(path)}
    return {"__init__.py": INIT, **stubs}


def has_content(path: Path) -> bool:
    """False for the service stubs of a proto without services, which hold no more than a version check."""
    return not path.name.endswith("_pb2_grpc.py") or "class " in path.read_text()


def rewritten(text: str) -> str:
    """The text with its imports of our messages turned to the package that holds the stubs."""
    return re.sub(r"^from tidegate\.v1 import ", "from tidegate.wire.stubs import ", text, flags=re.MULTILINE)


def differences(wanted: dict[str, str]) -> list[str]:
    """Names of the files that are missing, stale or too many."""
    present = {path.name: path.read_text() for path in STUBS.glob("*.py*") if path.is_file()}
    return sorted(name for name in wanted.keys() | present.keys() if wanted.get(name) != present.get(name))


def write(wanted: dict[str, str], names: list[str]) -> None:
    """Bring the named files to what is wanted; those not wanted go."""
    STUBS.mkdir(parents=True, exist_ok=True)
    for name in names:
        if name in wanted:
            (STUBS / name).write_text(wanted[name])
        else:
            (STUBS / name).unlink()


def main() -> None:
    """Generate, then compare or write."""
    wanted = generate()
    stale = differences(wanted)
    if "--check" not in sys.argv[1:]:
        write(wanted, stale)
        print(f"stubs: {len(wanted)} files, {len(stale)} changed")
    elif stale:
        sys.exit(f"stubs: not current: {', '.join(stale)}. Run `make proto` and commit the result.")


if __name__ == "__main__":
    main()
