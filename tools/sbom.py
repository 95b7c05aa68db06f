"""What vitadapt with all extras is made of, as a CycloneDX file.

    make sbom        dist/vitadapt.cdx.json

cyclonedx-py describes the environment; what is in it for development only is left out here: whatever is not needed, by
the packages' own words, from `vitadapt[all]` downwards.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import deque
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def needed(whole: str) -> set[str]:
    """Canonical names of everything installed that `whole`, such as "vitadapt[all]", needs, itself included."""
    first = Requirement(whole)
    waiting, found = deque([(first.name, frozenset(first.extras))]), set[tuple[str, frozenset[str]]]()
    while waiting:
        name, extras = waiting.popleft()
        if (canonicalize_name(name), extras) in found:
            continue
        try:
            lines = distribution(name).requires or []
        except PackageNotFoundError:  # an optional one that is not here is not shipped either
            continue
        found.add((canonicalize_name(name), extras))
        for one in map(Requirement, lines):
            if one.marker is None or any(one.marker.evaluate({"extra": extra}) for extra in extras or [""]):
                waiting.append((one.name, frozenset(one.extras)))
    return {name for name, _ in found}


def pruned(bom: dict[str, Any], keep: set[str]) -> dict[str, Any]:
    """The same list without the components that are not in `keep`."""
    parts = [part for part in bom.get("components", []) if canonicalize_name(part["name"]) in keep - {"vitadapt"}]
    refs = {part["bom-ref"] for part in parts} | {bom["metadata"]["component"]["bom-ref"]}
    links = [link for link in bom.get("dependencies", []) if link["ref"] in refs]
    for link in links:
        link["dependsOn"] = [ref for ref in link.get("dependsOn", []) if ref in refs]
    return {**bom, "components": parts, "dependencies": links}


def main() -> int:
    parser = argparse.ArgumentParser(description="List the components of vitadapt[all] as installed here.")
    parser.add_argument("out", type=Path, nargs="?", default=ROOT / "dist" / "vitadapt.cdx.json")
    out = parser.parse_args().out
    command = [sys.executable, "-m", "cyclonedx_py", "environment", "--pyproject", str(ROOT / "pyproject.toml")]
    command += ["--output-reproducible", "--output-format", "JSON", sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"cyclonedx-py failed; pip install -e '.[release]'\n{done.stderr}", file=sys.stderr)
        return 1
    bom = pruned(json.loads(done.stdout), needed("vitadapt[all]"))
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(bom, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"{out}: {len(bom['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main())
