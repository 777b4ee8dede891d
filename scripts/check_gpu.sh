#!/bin/bash
# Checks gptkit on the NVIDIA GPU of this machine: builds it, compares every operation, the golden cases and the first steps
# of training with the CPU's, resumes a run, and measures speed beside PyTorch. With several GPUs, MPI and NCCL, it also compares
# a run of two ranks with one of one process.
#
#     scripts/check_gpu.sh [--built FOLDER] [--quick]
#
# --built: a folder with gptkit, gptkit-ops and golden, built elsewhere (--build-only FOLDER makes one). --quick: no PyTorch.
set -euo pipefail
cd "$(dirname "$0")/.."
built='' quick='' only=''
while [ $# -gt 0 ]; do
  case $1 in
    --built) built=$2; shift 2 ;;
    --build-only) built=$2 only=1; shift 2 ;;
    --quick) quick=1; shift ;;
    *) echo "check_gpu.sh: $1 is not an option" >&2; exit 2 ;;
  esac
done

build() { # FOLDER: the binary and the tests that need a GPU
  mkdir -p "$1"
  local features=cuda
  if command -v mpirun > /dev/null && ldconfig -p | grep -q libnccl.so; then features=nccl; fi
  cargo build --release --features $features -p gptkit
  cp "${CARGO_TARGET_DIR:-target}/release/gptkit" "$1/gptkit"
  test_of() { # PACKAGE TARGET…: where cargo puts its test
    cargo test --release -p gptkit-ops -p "$1" --features gptkit-ops/cuda "${@:2}" --no-run --message-format=json |
      python3 -c "
import json, sys
for line in map(json.loads, sys.stdin):
    if line.get('executable') and line['target']['name'] == sys.argv[1]:
        print(line['executable'])" "${3:-${1//-/_}}"
  }
  cp "$(test_of gptkit-ops --lib)" "$1/gptkit-ops"
  cp "$(test_of gptkit-train --test golden)" "$1/golden"
}

if [ -z "$built" ]; then
  built=target/gpu-check
  build "$built"
elif [ -n "$only" ]; then
  build "$built"
  exit
fi
gptkit=$(realpath "$built/gptkit")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0
check() { # NAME COMMAND…: says whether it succeeds
  local begun=$SECONDS
  if "${@:2}" > "$work/log" 2>&1; then
    echo "ok      $1 ($((SECONDS - begun)) s)"
  else
    echo "FAILED  $1"
    tail -40 "$work/log"
    failed=$((failed + 1))
  fi
}

nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader
check 'every operation agrees with the CPU' "$built/gptkit-ops" --ignored --nocapture every_operation_of_the_gpu
grep -E ': [0-9.]+e' "$work/log" | sort -t: -k2 -g | tail -3 || true
check 'golden cases: logits, gradients, updates, greedy tokens' env GPTKIT_TEST_DEVICE=cuda "$built/golden"

device=${CHECK_DEVICE:-cuda} # another one tries the script itself
tiny='--set model.n_layer=2 --set model.n_head=2 --set model.d_model=64 --set model.context=64'
tiny="$tiny --set train.warmup=2steps --set model.attention_dropout=0.1 --set model.residual_dropout=0.1"
pretrain() { # RUN ARGUMENT…
  "$gptkit" pretrain --config small $tiny --data world:300 --out "$work/$1" "${@:2}"
}
losses() { # RUN: of its training steps
  python3 -c "
import json, sys
print(*[record['train_loss'] for record in map(json.loads, open(sys.argv[1])) if 'train_loss' in record])
" "$work/$1/metrics.jsonl"
}
near() { # RUN RUN TOLERANCE: whether their losses are
  python3 -c "
import sys
a, b = ([float(x) for x in part.split()] for part in sys.argv[1:3])
apart = max(abs(x - y) for x, y in zip(a, b))
print(f'        {len(a)} losses, at most {apart:.1e} apart')
sys.exit(not (a and len(a) == len(b) and apart < float(sys.argv[3])))" "$(losses "$1")" "$(losses "$2")" "$3"
}
same() { # RUN RUN: whether their weights are the same bytes
  cmp "$work/$1/model.safetensors" "$work/$2/model.safetensors"
}
interrupt() { # RUN: starts it, and stops it after its tenth step
  (exec "$gptkit" pretrain --config small $tiny --data world:300 --out "$work/$1" --device "$device" --dtype bf16 --steps 600) &
  local process=$!
  until [ -e "$work/$1/metrics.jsonl" ] && [ "$(wc -l < "$work/$1/metrics.jsonl")" -ge 10 ]; do
    sleep 0.05
    kill -0 $process || return 1
  done
  kill -TERM $process
  wait $process || [ $? -eq 143 ]
}
check 'training on the CPU, f32' pretrain cpu --device cpu --dtype f32 --steps 20
for dtype in f32 bf16; do
  check "training on the GPU, $dtype" pretrain gpu-$dtype --device "$device" --dtype $dtype --steps 20
done
check "losses in f32 are the CPU's" near cpu gpu-f32 5e-4
cat "$work/log"
check 'losses in bf16 are near them' near cpu gpu-bf16 5e-2
cat "$work/log"
check 'the same run once more' pretrain again --device "$device" --dtype bf16 --steps 20
check 'it has the same bytes' same gpu-bf16 again
check 'the same run with blocks computed again' \
  pretrain recompute --device "$device" --dtype bf16 --steps 20 --set train.recompute=blocks
check 'it has the same bytes' same gpu-bf16 recompute
check 'a run of 600 steps' pretrain whole --device "$device" --dtype bf16 --steps 600
check 'the same run, interrupted' interrupt stopped
check 'it goes on' "$gptkit" pretrain --resume "$work/stopped" --device "$device"
check 'it has the same bytes' same whole stopped
ranks() { # N RUN: trains in two parts
  local start=''
  [ "$1" -eq 1 ] || start="mpirun -n $1"
  $start "$gptkit" pretrain --config small $tiny --data world:300 --out "$work/$2" --device "$device" --dtype bf16 --steps 20 \
    --set train.shards=2 --set train.micro_batch=2
}
if command -v mpirun > /dev/null && [ "${CHECK_RANKS:-$(nvidia-smi -L | wc -l)}" -gt 1 ]; then
  check 'one process, two parts of a batch' ranks 1 one-rank
  check 'two ranks with a GPU each' ranks 2 two-ranks
  check 'it has the same bytes' same one-rank two-ranks
fi
check 'text from a prompt' "$gptkit" sample --model "$work/whole" --device "$device" --prompt 'Once' --max-new-tokens 40
cat "$work/log"
stage() { # COMMAND ARGUMENT…
  "$gptkit" "$1" "${@:2}" --device "$device" --set train.batch_size=8 --set train.length=12steps \
    --set train.warmup=0steps --set train.eval_every=6
}
check 'SFT' stage sft --init "$work/whole" --data world:80 --out "$work/sft"
check 'a reward model' stage train-rm --init "$work/sft" --data world:60 --out "$work/rm"
check 'DPO' stage dpo --init "$work/sft" --data world:60 --out "$work/dpo"
check 'PPO' stage ppo --init "$work/sft" --reward "$work/rm" --prompts world:40 --set policy.minibatches=2 \
  --set rollout.max_new_tokens=6 --set ptx.per_episode=1 --set train.eval_windows=4 --out "$work/ppo"
check 'SFT of adapters' stage sft --init "$work/whole" --data world:80 --set lora.rank=4 --set train.optimizer=adamw --out "$work/adapters"

if [ -z "$quick" ]; then
  python3 scripts/bench.py --device cuda --gptkit "$gptkit" --rounds 1 || failed=$((failed + 1))
  echo 'llm.c, published: GPT-2 124M on eight A100, 1.75 M tokens/s (github.com/karpathy/llm.c, discussion 481)'
else
  for arguments in '--batch 16 --dtype bf16 --case train_step' '--batch 1 --dtype bf16 --case decode'; do
    "$gptkit" bench --config gpt2-small --device cuda --set train.micro_batch=16 $arguments || failed=$((failed + 1))
  done
fi
if [ $failed -gt 0 ]; then
  echo "$failed checks failed"
  exit 1
fi
echo 'all checks passed'
