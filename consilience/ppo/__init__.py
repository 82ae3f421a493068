"""Policy optimisation for language models: rollouts, advantages, losses, KL control. Knows nothing of morals or tables.

Reading order: `losses` (the formulas), `policy` (one base model: policy, reference and value function), `rollout`
(sampling), `rewards` (calling the user's reward), `trainer` (one update, checkpoints, several workers). Beside them
`vllm_sampler` (sampling by vLLM).
"""
