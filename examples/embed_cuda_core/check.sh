#!/usr/bin/env bash
# Checks this example where there is no CUDA toolkit: the headers of CUDA 13 and libclang come from PyPI, pinned by hash, into
# target/embed_cuda_core; without them it ends with status 69. Arguments go to cargo: `check.sh build` builds the program.
set -euo pipefail
cd "$(dirname "$0")"
target=$(cd ../.. && pwd)/target/embed_cuda_core
if [ ! -e "$target/headers/done" ]; then
    rm -rf "$target/headers"
    mkdir -p "$target"
    if ! { python3 -m venv "$target/headers" && "$target/headers/bin/pip" install -q --disable-pip-version-check \
        --retries 2 --timeout 20 --no-cache-dir --no-deps --require-hashes -r headers.txt; }; then
        echo "the headers of CUDA 13 could not be installed"
        exit 69
    fi
    touch "$target/headers/done"
fi
packages=$("$target/headers/bin/python" -c 'import sysconfig; print(sysconfig.get_paths()["purelib"])')
export CUDA_TOOLKIT_PATH=$packages/nvidia/cu13 LIBCLANG_PATH=$packages/clang/native CUDARC_CUDA_VERSION=12040
# That libclang brings no headers of the compiler: stddef.h is gcc's.
export BINDGEN_EXTRA_CLANG_ARGS="-I$(gcc -print-file-name=include)"
cargo "${1:-check}" --locked --target-dir "$target" "${@:2}"
