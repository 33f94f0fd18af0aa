#!/usr/bin/env bash
# Everything that only a GPU can show, on a machine with NVIDIA's driver and nothing else: no Rust, no CUDA toolkit.
# Programs and cubins are unpacked with gzip. Where python3 has PyTorch, the same cases are
# timed there.
#
#   ./run.sh [--budget SECONDS] [OUT]      writes OUT (default: results), with OUT/record.json and OUT/table.txt
#
# Parts follow each other in the order of what they tell, and each has a share of the budget (540 seconds if none is
# given). The record and the table are written after every part, so a run that is cut off leaves what it had; what its last
# part had measured is in OUT/ours.json, and `bin/gpu --report OUT` takes it into both. Running it again with the same OUT
# goes on: parts that passed are not repeated, and figures that are in the record are kept.
#
# Ends with 0 when every part passed, 1 when one failed or was not finished, 2 for wrong options, 3 when there is no GPU, 4 when
# the programs cannot be unpacked.
set -uo pipefail
cd "$(dirname "$0")"
budget=540 out=results
while [ $# -gt 0 ]; do
    case $1 in
    --budget)
        budget=${2:-}
        if ! [[ $budget =~ ^[1-9][0-9]{0,5}$ ]]; then
            echo "--budget takes a number of seconds, not '$budget'"
            exit 2
        fi
        shift 2
        ;;
    -*)
        echo "run.sh has no option $1; it takes --budget SECONDS and a folder"
        exit 2
        ;;
    *)
        out=$1
        shift
        ;;
    esac
done
for packed in bin/*.gz; do
    program=${packed%.gz}
    if [ ! -e "$packed" ] || [ -x "$program" ]; then continue; fi
    # Renamed when it is whole: a run may be cut off here too.
    if ! { gzip -dc "$packed" >"$program.part" && chmod +x "$program.part" && mv "$program.part" "$program"; }; then
        echo "$packed cannot be unpacked; it needs gzip, and a folder that can be written with room for the program"
        exit 4
    fi
done
if ! said=$(bin/gpu --probe 2>&1); then
    echo "there is no GPU to run on: $said"
    exit 3
fi
mkdir -p "$out" || exit 2
# Modules that are assembled for this GPU already; those that are not are compiled by the driver.
unpack() {
    mkdir -p "$out/cubins" || return
    local packed name
    for packed in cubins/*."$arch".cubin.gz; do
        name=${packed##*/}
        gzip -dc "$packed" >"$out/cubins/${name%.gz}" || return
    done
    cp "cubins/$arch.txt" "$out/cubins/"
}
arch=$(bin/gpu --architecture)
if ! [ -e "cubins/$arch.txt" ]; then
    cubins="no cubins for it"
elif ! unpack 2>"$out/unpack.log"; then
    cubins="no cubins, since they cannot be unpacked ($(tail -n 1 "$out/unpack.log"))"
else
    cubins="cubins of $arch"
    TUBELET_TEST_CUBINS=$(cd "$out" && pwd)/cubins
    export TUBELET_TEST_CUBINS
fi
echo "$said, $cubins, $budget seconds"
date -u +%F >"$out/date.txt"
if command -v nvidia-smi >/dev/null 2>&1; then
    nvidia-smi --query-gpu=driver_version --format=csv,noheader | head -n 1 >"$out/driver.txt"
fi
export TUBELET_TEST_DEVICE=cuda:0
# What the driver's compiler makes of a module is kept for the next process.
CUDA_CACHE_PATH=$(cd "$out" && pwd)/cache
export CUDA_CACHE_PATH
bad=0

# Writes the record and the table of what there is.
report() {
    bin/gpu --report "$out" >"$out/table.new" 2>&1 && mv "$out/table.new" "$out/table.txt"
}

# What is left of the budget, in seconds.
left() {
    echo $((budget - SECONDS))
}

# part NAME SHARE COMMAND..: runs a command into OUT/NAME.txt, for at most SHARE percent of the budget; an argument @
# stands for those seconds, less five. A failure is noted and the next part follows. A log of tests must have tests.
part() {
    local name=$1 limit=$((budget * $2 / 100)) left code why arg args=()
    shift 2
    if [ -e "$out/$name.passed" ]; then
        echo "== $name: passed before"
        return
    fi
    left=$(left)
    if [ "$left" -lt "$limit" ]; then limit=$left; fi
    if [ "$limit" -lt 6 ]; then
        echo "== $name: no time is left"
        bad=1
        return
    fi
    echo "== $name: at most $limit s"
    for arg in "$@"; do
        if [ "$arg" = @ ]; then arg=$((limit - 5)); fi
        args+=("$arg")
    done
    timeout --foreground --kill-after 5 "$limit" "${args[@]}" >"$out/$name.txt" 2>&1
    code=$?
    if [ $code -eq 0 ] && grep -q "^test result:" "$out/$name.txt" && ! grep -q "test result: ok. [1-9]" "$out/$name.txt"; then
        code="no test ran"
    fi
    if [ "$code" = 0 ] && ! grep -q "are left for another run" "$out/$name.txt"; then
        echo "   passed after $SECONDS s"
        touch "$out/$name.passed"
    else
        case $code in
        0) why="some cases are left for another run" ;;
        124 | 137) why="its time was over" ;;
        *[!0-9]*) why=$code ;;
        *) why="status $code" ;;
        esac
        echo "   NOT PASSED ($why) after $SECONDS s; the end of $out/$name.txt:"
        tail -n 3 "$out/$name.txt" | sed 's/^/   /'
        bad=1
    fi
    report
}

read -ra modules <modules
record=$out/ours.json

# On a Hopper: does wgmma read operands as the kernels with halos assume? The library asks, too, and does without them if not.
part assumptions 5 bin/gpu --assumptions "$record"
# Does the driver take every module, and how long does it take?
part modules 15 bin/gpu --modules "$record"
grep "^modules " "$out/table.txt" | sed 's/^/   /'
# Each class of instruction on hardware and in the simulator.
part classes 10 bin/it device::instructions:: --nocapture --test-threads 1
# Every kernel's cases against the reference on the CPU, twice with the same bits, on memory that is NaN at first. A process
# for each subject: a fault ends the context, and with it all that follows in the same process.
for module in "${modules[@]}"; do
    if [ "$module" != device::instructions:: ] && [ $SECONDS -lt $((budget * 55 / 100)) ]; then
        name=${module%::}
        part "tests.${name//::/_}" 15 bin/it "$module" --test-threads "$(nproc)"
    fi
done
# The peaks, then the hot layers with each of their tiles, then whole steps.
part peaks 5 bin/gpu --peaks "$record"
part layers 20 bin/gpu --timed "$record" /tile @
part steps 15 bin/gpu --timed "$record" step/ @
# Every kernel of a step by itself.
part kernels 5 bin/gpu --launches "$record" @
# The same steps in PyTorch, compiled.
if python3 -c 'import torch; assert torch.cuda.is_available()' >/dev/null 2>&1; then
    bin/gpu --cases >"$out/cases.json"
    part peer_steps 20 python3 peers/gpu.py "$out/cases.json" "$out/peer.json" --filter step/
    part peer 20 python3 peers/gpu.py "$out/cases.json" "$out/peer.json" --eager
else
    echo "== peer: python3 has no PyTorch with a GPU; passed over"
fi
# All other cases, kernels on a stream of somebody else's, and a training run.
part cases 30 bin/gpu --timed "$record" / @
part embedded 5 bin/embed_kernel --device cuda:0 --out "$out/embedded"
part training 30 bin/pretrain_maclr --device cuda:0 --out "$out/training"
tail -n 1 "$out/training.txt" >"$out/training.json" 2>/dev/null

# The tests again under the sanitizer, where there is one, each by itself, so that a part that is cut off has finished some.
sanitizer=$(command -v compute-sanitizer || ls /usr/local/cuda*/bin/compute-sanitizer 2>/dev/null | tail -n 1)
if [ -n "$sanitizer" ]; then
    for tool in memcheck racecheck; do
        for module in "${modules[@]}"; do
            name=${module%::}
            part "$tool.${name//::/_}" 15 "$sanitizer" --tool $tool --error-exitcode 9 bin/it "$module" --skip device::maclr:: --test-threads 1
        done
    done
else
    echo "== sanitizer: compute-sanitizer is not on this machine; passed over"
fi

report
cat "$out/table.txt"
exit $bad
