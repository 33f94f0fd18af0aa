#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine with NVIDIA's driver and nothing else: no Rust, no CUDA toolkit.
# Where python3 has PyTorch, the same cases are timed there.
#
#   ./run.sh [OUT]          writes OUT (default: results) and OUT/record.json; about half an hour
#
# Ends with 0 when every check passed, 1 when one failed, 3 when there is no GPU.
set -uo pipefail
cd "$(dirname "$0")"
out=${1:-results}
if ! said=$(bin/gpu --probe 2>&1); then
    echo "there is no GPU to run on: $said"
    exit 3
fi
mkdir -p "$out"
echo "$said"
date -u +%F >"$out/date.txt"
if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1 >"$out/driver.txt"
fi
export TUBELET_TEST_DEVICE=cuda:0
bad=0

# part NAME SECONDS COMMAND..: runs a command into OUT/NAME.txt; a failure is noted and the next part follows.
part() {
    local name=$1 limit=$2
    shift 2
    echo "== $name: $*"
    if timeout "$limit" "$@" >"$out/$name.txt" 2>&1; then
        echo "   passed"
    else
        echo "   FAILED with $? (124: it took longer than $limit s); the end of $out/$name.txt:"
        tail -n 5 "$out/$name.txt" | sed 's/^/   /'
        bad=1
    fi
}

# (a) Every kernel's cases on the GPU against the reference on the CPU.
read -ra modules <modules
part tests 1800 bin/it "${modules[@]}" --test-threads 4
grep -q "test result: ok. [1-9]" "$out/tests.txt" || bad=1

# (b) The same under the sanitizer, where there is one.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
if [ -n "$sanitizer" ]; then
    part sanitizer 3600 "$sanitizer" --tool memcheck --error-exitcode 9 bin/it "${modules[@]}" --skip device::maclr:: --test-threads 1
    part races 3600 "$sanitizer" --tool racecheck --error-exitcode 9 bin/it "${modules[@]}" --skip device::maclr:: --test-threads 1
else
    echo "== sanitizer: compute-sanitizer is not on this machine; passed over"
fi

# (c) Each class of instruction on hardware and in the simulator.
part classes 600 bin/it device::instructions:: --nocapture --test-threads 1

# (d) Every case, timed.
TUBELET_GPU_RECORD="$out/ours.json" part timings 3600 bin/gpu --bench

# (e) The same in PyTorch.
if python3 -c 'import torch; assert torch.cuda.is_available()' >/dev/null 2>&1; then
    bin/gpu --cases >"$out/cases.json"
    part peer 3600 python3 peers/gpu.py "$out/cases.json" "$out/peer.json"
else
    echo "== peer: python3 has no PyTorch with a GPU; passed over"
fi

# (f) Kernels on a stream of somebody else's, and training, whole.
part embedded 300 bin/embed_kernel --device cuda:0 --out "$out/embedded"
part training 1800 bin/pretrain_maclr --device cuda:0 --out "$out/training"
tail -n 1 "$out/training.txt" >"$out/training.json"

bin/gpu --report "$out" | tee "$out/table.txt"
exit $bad
