#!/usr/bin/env bash
# One machine with one GPU of 80 GB, a 1.5B policy in fp32, the embedded helpers: no server, no cluster.
#
#     bash single_machine.sh                 # goes on where it was cut
#     AIPO_POLICY=Qwen/Qwen2.5-0.5B-Instruct bash single_machine.sh --steps 50
set -euo pipefail
policy=${AIPO_POLICY:-Qwen/Qwen2.5-1.5B-Instruct} out=${AIPO_OUT:-runs/math}

# A policy that never asks is shown how, on our own episodes; one that does starts as it is.
[[ -d $out/start ]] || aipo warmup --policy "$policy" --device cuda --unless-asks 0.05 --out "$out/start"

aipo train --env math-consult --env-options leak_filter 1 --policy "$out/start" --device cuda --out "$out/run" \
    --steps 200 --prompts-per-step 16 --samples-per-prompt 8 --micro-batch-size 4 --sampling.max-tokens 1024 --sampling.batch-size 128 \
    --eval-env math500-consult --eval-tasks 100 --eval-samples 1 "$@"

# Alone, on what it was not trained on. (GPQA is gated: HF_TOKEN of an account that has agreed to its terms.)
aipo eval --suite math500,aime24,aime25,gpqa-diamond --mode solo --policy "$out/run/policy" --device cuda --out "$out/eval"
