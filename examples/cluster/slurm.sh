#!/usr/bin/env bash
# Several nodes through Slurm and Ray: two nodes of 8 GPUs for a 7B policy, one more for the helpers.
#
#     aipo plan --model 7b --gpus 16 --helper-gpus 8 --prompts-per-step 128
#     sbatch slurm.sh
#
# The cache of exported prompts and the checkpoints have to lie on a file system that all nodes see.
#SBATCH --nodes=3 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 --exclusive --signal=B:TERM@300 --requeue
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:-$(dirname "$0")}"
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${nodes[0]} helpers=${nodes[-1]} port=6379
# Where the policy never asks: AIPO_POLICY names a folder that `aipo warmup --policy ... --out ...` wrote.
export AIPO_HELPER_URL=http://$helpers:8100/v1 AIPO_HELPER_MODEL=Qwen/Qwen2.5-7B-Instruct
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}

srun --nodes=1 --ntasks=1 -w "$helpers" vllm serve "$AIPO_HELPER_MODEL" --host 0.0.0.0 --port 8100 --data-parallel-size 8 &
srun --nodes=1 --ntasks=1 -w "$head" --overlap ray start --head --port="$port" --num-gpus=8 --block &
sleep 20
for node in "${nodes[@]:1:${#nodes[@]}-2}"; do
    srun --nodes=1 --ntasks=1 -w "$node" ray start --address="$head:$port" --num-gpus=8 --block &
done
sleep 20

# A job that is pre-empted starts again with the same command: --ckpt.load_enable takes up the last checkpoint.
srun --nodes=1 --ntasks=1 -w "$head" --overlap env RAY_ADDRESS="$head:$port" python ../../algorithms/aipo_openrlhf.py \
    --aipo.env math-consult --aipo.solo_share 0.5 --aipo.cache "$PWD/runs/prompts" \
    --aipo.eval_env math500-consult --aipo.eval_tasks 500 --eval.steps 20 \
    --aipo.agents verify=served_helpers:verify knowledge=served_helpers:knowledge reasoning=served_helpers:reasoning \
    --actor.model_name_or_path "${AIPO_POLICY:-Qwen/Qwen2.5-7B-Instruct}" \
    --actor.num_nodes 2 --actor.num_gpus_per_node 8 --ref.num_nodes 2 --ref.num_gpus_per_node 8 \
    --vllm.num_engines 16 --vllm.tensor_parallel_size 1 --vllm.gpu_memory_utilization 0.5 \
    --train.colocate_all --vllm.enable_sleep --ds.enable_sleep --vllm.enable_prefix_caching \
    --ds.zero_stage 3 --ds.packing_samples --actor.gradient_checkpointing_enable \
    --train.dynamic_batch_enable --train.max_tokens_per_gpu 16384 \
    --rollout.batch_size 128 --rollout.n_samples_per_prompt 16 --train.batch_size 2048 \
    --data.max_len 8192 --rollout.max_new_tokens 4096 --algo.kl.init_coef 0 \
    --ckpt.path runs/7b/checkpoints --ckpt.save_steps 10 --ckpt.output_dir runs/7b/model --ckpt.load_enable "$@"

# Alone, on what it was not trained on. (GPQA is gated: HF_TOKEN of an account that has agreed to its terms.)
srun --nodes=1 --ntasks=1 -w "$head" --overlap aipo eval --suite math500,aime24,aime25,gpqa-diamond --mode solo --policy runs/7b/model --backend vllm \
    --out runs/7b/eval
