"""Every task file under sky/ is one that SkyPilot itself reads, and runs programs that exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conftest import ROOT

FILES = sorted((ROOT / "sky").glob("*.yaml"))


@pytest.mark.slow
@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_skypilot_reads_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    import sky

    assert "site-packages" in str(sky.__file__), "our folder sky/ must not shadow SkyPilot"
    task = sky.Task.from_yaml(str(path))
    resources = next(iter(task.resources))
    assert resources.autostop_config is not None and resources.autostop_config.down
    for name in re.findall(r"jobs/[\w-]+\.yaml", str(task.run)):
        assert (ROOT / name).is_file()
