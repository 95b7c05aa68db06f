"""Many adapters behind HTTP: the package that `vitadapt serve` starts. docs/server.md.

Needs the extra `server` (FastAPI, uvicorn); `vitadapt.cli.serve` says so when it is missing.
"""
