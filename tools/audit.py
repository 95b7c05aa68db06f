"""Known vulnerabilities of what vitadapt with all extras is made of.

    make audit

Asks the advisory database of PyPI through pip-audit. Exit status: 0 nothing is known of any package, 1 something is, or
pip-audit is missing, 2 the database could not be asked about some or all, so that nothing is known either way.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sbom import needed

NOTHING_KNOWN, VULNERABLE, NOT_AUDITED = 0, 1, 2


def ask(names: list[str]) -> list[dict[str, Any]] | str:
    """What pip-audit found for each package at its installed version; or its complaint."""
    with tempfile.TemporaryDirectory() as folder:
        listed = Path(folder) / "requirements.txt"
        listed.write_text("".join(f"{name}=={version(name).partition('+')[0]}\n" for name in names))
        command = [sys.executable, "-m", "pip_audit", "--no-deps", "--disable-pip", "--progress-spinner", "off"]
        command += ["--format", "json", "--requirement", str(listed)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return done.stderr.strip() or "pip-audit said nothing"
    return found


def verdict(found: list[dict[str, Any]]) -> tuple[int, list[str]]:
    """The exit status, and what to say: every vulnerability, then how many packages nothing could be learnt about."""
    lines = [
        f"{one['name']} {one['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or 'no version yet'}"
        for one in found
        for flaw in one.get("vulns", [])
    ]
    if lines:
        return VULNERABLE, lines
    if skipped := [one["name"] for one in found if "skip_reason" in one]:
        return NOT_AUDITED, [
            f"not audited: the advisory database could not be asked about {len(skipped)} of {len(found)} packages "
            f"({', '.join(skipped[:5])}{', ...' if len(skipped) > 5 else ''})"
        ]
    return NOTHING_KNOWN, [f"no known vulnerability in {len(found)} packages"]


def main() -> int:
    found = ask(sorted(needed("vitadapt[all]") - {"vitadapt"}))
    if isinstance(found, str):
        reason = found.splitlines()[-1]
        missing = "No module named pip_audit" in found
        print("pip-audit is not installed; pip install -e '.[release]'" if missing else f"not audited: {reason}")
        return VULNERABLE if missing else NOT_AUDITED
    status, lines = verdict(found)
    print("\n".join(lines))
    return status


if __name__ == "__main__":
    sys.exit(main())
