#!/usr/bin/env bash
# One node of 8 GPUs, a 7B policy: four GPUs train while three roll out, one serves the helpers.
#
#     aipo plan --model 7b --gpus 7 --placement async --helper-gpus 1 --prompts-per-step 48 --gpu-utilization 0.9
set -euo pipefail
cd "$(dirname "$0")"
# Where the policy never asks: AIPO_POLICY names a folder that `aipo warmup --policy ... --out ...` wrote.
export AIPO_HELPER_URL=http://127.0.0.1:8100/v1 AIPO_HELPER_MODEL=Qwen/Qwen2.5-7B-Instruct
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

CUDA_VISIBLE_DEVICES=7 vllm serve "$AIPO_HELPER_MODEL" --port 8100 &
trap 'kill %1 2>/dev/null || true' EXIT

# Trained on samples of a policy that is up to one step older: importance sampling corrects for that.
CUDA_VISIBLE_DEVICES=0,1,2,3,4,5,6 python ../../algorithms/aipo_openrlhf.py \
    --aipo.env math-consult --aipo.solo_share 0.5 \
    --aipo.eval_env math500-consult --aipo.eval_tasks 500 --eval.steps 20 \
    --aipo.agents verify=served_helpers:verify knowledge=served_helpers:knowledge reasoning=served_helpers:reasoning \
    --actor.model_name_or_path "${AIPO_POLICY:-Qwen/Qwen2.5-7B-Instruct}" \
    --actor.num_nodes 1 --actor.num_gpus_per_node 4 --ref.num_nodes 1 --ref.num_gpus_per_node 4 --train.colocate_actor_ref \
    --vllm.num_engines 3 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.9 --vllm.enable_prefix_caching \
    --train.async_enable --train.async_queue_size 1 --algo.advantage.is_correction_level token \
    --ds.zero_stage 3 --ds.packing_samples --actor.gradient_checkpointing_enable \
    --train.dynamic_batch_enable --train.max_tokens_per_gpu 16384 \
    --rollout.batch_size 48 --rollout.n_samples_per_prompt 16 --train.batch_size 768 \
    --data.max_len 8192 --rollout.max_new_tokens 4096 --algo.kl.init_coef 0 \
    --ckpt.path runs/7b/checkpoints --ckpt.save_steps 20 --ckpt.output_dir runs/7b/model "$@"

# Alone, on what it was not trained on. (GPQA is gated: HF_TOKEN of an account that has agreed to its terms.)
CUDA_VISIBLE_DEVICES=0 aipo eval --suite math500,aime24,aime25,gpqa-diamond --mode solo --policy runs/7b/model --backend vllm \
    --out runs/7b/eval
