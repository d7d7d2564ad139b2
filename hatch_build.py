"""What hatchling runs while Tidegate is installed: compiles service/tidegate/native, if there is a C compiler."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg, misc]
    """Adds the library to the wheel, which is then of this platform, whatever its Python."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Of a wheel and of an editable install alike."""
        del version
        built = runpy.run_path(str(Path(self.root, "service", "tidegate", "native", "build.py")))
        why = built["build"]()
        if why:
            self.app.display_warning(f"Tidegate's C parts were not built, and it will be slower: {why}")
            return
        build_data["pure_python"] = False
        build_data["artifacts"].append("service/tidegate/native/*.so")
        build_data["tag"] = f"py3-none-{_platform()}"


def _platform() -> str:
    """Such as linux_x86_64."""
    from packaging.tags import platform_tags  # noqa: PLC0415  # comes with hatchling

    return next(iter(platform_tags()))
