"""What joins the project to OpenRLHF: the side channel, the policy loss, the executor and the hooks.

Nothing here imports OpenRLHF, Ray, vLLM or DeepSpeed at import time, but `agent_func` and `policy_actor`, which OpenRLHF's own
processes import.
"""
