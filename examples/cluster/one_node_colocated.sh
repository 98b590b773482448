#!/usr/bin/env bash
# One node of 8 GPUs, a 1.5B policy: four GPUs train and roll out in turns, four serve the helpers.
#
#     aipo plan --model 1.5b --gpus 4 --helper-gpus 4 --prompts-per-step 64 --helper-tokens 100
set -euo pipefail
cd "$(dirname "$0")"
export AIPO_HELPER_URL=http://127.0.0.1:8100/v1 AIPO_HELPER_MODEL=Qwen/Qwen2.5-7B-Instruct
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

# A policy that never asks is shown how, on our own episodes; one that does starts as it is.
[[ -d runs/1.5b/start ]] || CUDA_VISIBLE_DEVICES=0 aipo warmup --policy "${AIPO_POLICY:-Qwen/Qwen2.5-1.5B-Instruct}" --device cuda \
    --unless-asks 0.05 --out runs/1.5b/start

CUDA_VISIBLE_DEVICES=4,5,6,7 vllm serve "$AIPO_HELPER_MODEL" --port 8100 --data-parallel-size 4 &
trap 'kill %1 2>/dev/null || true' EXIT

CUDA_VISIBLE_DEVICES=0,1,2,3 python ../../algorithms/aipo_openrlhf.py \
    --aipo.env math-consult --aipo.solo_share 0.5 \
    --aipo.eval_env math500-consult --aipo.eval_tasks 500 --eval.steps 20 \
    --aipo.agents verify=served_helpers:verify knowledge=served_helpers:knowledge reasoning=served_helpers:reasoning \
    --actor.model_name_or_path "$PWD/runs/1.5b/start" \
    --actor.num_nodes 1 --actor.num_gpus_per_node 4 --ref.num_nodes 1 --ref.num_gpus_per_node 4 \
    --vllm.num_engines 4 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.5 \
    --train.colocate_all --vllm.enable_sleep --ds.enable_sleep --vllm.enable_prefix_caching \
    --ds.zero_stage 2 --ds.packing_samples --actor.gradient_checkpointing_enable \
    --train.dynamic_batch_enable --train.max_tokens_per_gpu 16384 \
    --rollout.batch_size 64 --rollout.n_samples_per_prompt 16 --train.batch_size 1024 \
    --data.max_len 8192 --rollout.max_new_tokens 4096 --algo.kl.init_coef 0 \
    --ckpt.path runs/1.5b/checkpoints --ckpt.save_steps 20 --ckpt.output_dir runs/1.5b/model "$@"

# Alone, on what it was not trained on. (GPQA is gated: HF_TOKEN of an account that has agreed to its terms.)
CUDA_VISIBLE_DEVICES=0 aipo eval --suite math500,aime24,aime25,gpqa-diamond --mode solo --policy runs/1.5b/model --backend vllm \
    --out runs/1.5b/eval
