#!/usr/bin/env bash
# Builds this example and runs it on tools/simcuda, a libcuda whose device is a simulator. Where the headers of CUDA 13 cannot be
# installed it ends with status 69, as check.sh does.
set -euo pipefail
cd "$(dirname "$0")"
./check.sh build
root=$(cd ../.. && pwd)
cargo build --locked --manifest-path "$root/Cargo.toml" --target-dir "$root/target" --package simcuda
driver=$(mktemp -d)
trap 'rm -rf "$driver"' EXIT
cp "$root/target/debug/libsimcuda.so" "$driver/libcuda.so.1"
ln -s libcuda.so.1 "$driver/libcuda.so" # the name that tubelet looks for: of the same file, as with a driver, so that both use one
# cuda-core refuses a driver that is older than the headers it was built with, those of headers.txt.
LD_LIBRARY_PATH=$driver SIMCUDA_VERSION=13050 "$root/target/embed_cuda_core/debug/embed_cuda_core"
