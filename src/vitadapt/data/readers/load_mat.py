"""The variables of a MATLAB file as plain lists, by scipy. As a program: standard input to standard output, as JSON;
or, of the variables whose names it is given, the arrays one after another as .npy files.

scipy executes nothing of a file, but many damaged files end the process that reads them. So a file that nobody
has checked is read by a process of its own, which imports nothing of this package.
"""

from __future__ import annotations

import io
import json
import sys
from typing import Any

_MEMORY = 4 << 30  # bytes that the program may take


def variables(data: bytes) -> dict[str, Any]:
    """Name -> value: numbers as a list (a matrix as a list of rows), a text as str, a cell array as a list, records as
    a dict of field -> list. Raises whatever scipy raises.
    """
    from scipy.io import loadmat

    table = loadmat(io.BytesIO(data))
    return {name: _plain(value) for name, value in table.items() if not name.startswith("__")}


def _plain(value: Any) -> Any:
    if value.dtype.names:
        return {field: [_plain(entry) for entry in value[field].ravel("F")] for field in value.dtype.names}
    if value.dtype.kind == "O":
        return [_plain(entry) for entry in value.ravel("F")]
    if value.dtype.kind == "U":
        return "".join(value.ravel().tolist())
    return value.ravel().tolist() if value.size in value.shape else value.tolist()


def _main() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    except (ImportError, ValueError, OSError):  # a system without such limits
        pass
    data = sys.stdin.buffer.read()
    if names := sys.argv[1:]:
        _write_arrays(data, names)
        return
    table = variables(data)
    with open(1, "w", encoding="utf-8", closefd=False) as output:
        json.dump(table, output)


def _write_arrays(data: bytes, names: list[str]) -> None:
    from numpy import save
    from scipy.io import loadmat

    table, output = loadmat(io.BytesIO(data), variable_names=names), io.BytesIO()  # numpy writes to no pipe
    for name in names:
        save(output, table[name], allow_pickle=False)
    sys.stdout.buffer.write(output.getbuffer())


if __name__ == "__main__":
    _main()
