"""Archives of our own, as every Python unpacks them."""

import tarfile
from pathlib import Path


def unpack(archive: Path, folder: Path) -> None:
    """A tar file into a folder. Pythons before 3.10.12 and 3.11.4 have no filters, and later ones warn without one."""
    with tarfile.open(archive) as file:
        file.extractall(folder, **({"filter": "data"} if hasattr(tarfile, "data_filter") else {}))
