#!/usr/bin/env bash
# Regenerates the Python code of the protocol beside its .proto file. CI runs it and fails on any difference.
set -euo pipefail
cd "$(dirname "$0")"
python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. --grpc_python_out=. --mypy_grpc_out=quiet:. cordee/rpc/v1/worker.proto
