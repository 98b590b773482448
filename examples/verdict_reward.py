"""A reward learnt from Verify's verdicts, where the policy that it trains chooses what to ask; against random questions.

    python examples/verdict_reward.py

Interactive inverse RL in the manner of BISIRL (arXiv 2605.08131), where nobody grades: below, a reward model is fitted to the
verdicts so far on claims `4+4+1=9`; above, a policy that answers sums is trained on that reward, and asks Verify about its own
answers. The control asks as often, about random answers, and trains the same policy in the same way. On sums that neither was
told about: AUC of the reward between the right answer and one that is off by 1 to 3, and accuracy of the policy.
It needs the extra "train". docs/comparison.md has the numbers.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor, nn
from torch.nn import functional

import aipo_env
from aipo_agents.verdicts import leading_verdict

MOST = 27  # what three digits can add up to
BATCH = 100  # questions between two fits


class Expert:
    """Verify, asked through the environment; no episode is answered, so nothing is ever graded."""

    def __init__(self) -> None:
        self.env = aipo_env.make("rulebook-consult", agents=["verify"], max_consults=BATCH, max_turns=2 * BATCH)

    def judge(self, claims: list[str]) -> Tensor:
        """1.0 for each claim that it calls correct."""
        self.env.reset(seed=0)
        verdicts = []
        for claim in claims:
            said = self.env.step(f'<consult agent="verify">{claim}</consult>')[4]["segments"][-1]["text"]
            verdicts.append(float(leading_verdict(said.partition(">")[2].partition("<")[0]) == "correct"))
        return torch.tensor(verdicts)


def network(inputs: int, outputs: int) -> nn.Module:
    """Three layers."""
    return nn.Sequential(nn.Linear(inputs, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, outputs))


def pairs(digits: Tensor, answers: Tensor) -> Tensor:
    """What the reward model reads: the three digits and an answer, about -1 to 1."""
    return torch.cat([digits / 4.5 - 1, answers[:, None] / 13.5 - 1], dim=1).float()


def fit_reward(reward: nn.Module, digits: Tensor, answers: Tensor, verdicts: Tensor, steps: int) -> None:
    """Below: logistic regression on the verdicts so far, right and wrong ones with the same weight in all."""
    optimizer = torch.optim.Adam(reward.parameters(), lr=2e-3)
    right = verdicts.mean().clamp(0.01, 0.99)
    weights = torch.where(verdicts > 0, 0.5 / right, 0.5 / (1 - right))
    for _ in range(steps):
        rows = torch.randint(len(verdicts), (min(256, len(verdicts)),))
        logits = reward(pairs(digits[rows], answers[rows]))[:, 0]
        optimizer.zero_grad()
        functional.binary_cross_entropy_with_logits(logits, verdicts[rows], weights[rows]).backward()
        optimizer.step()


def train_policy(policy: nn.Module, reward: nn.Module, digits: Tensor, steps: int, entropy: float = 0.05) -> None:
    """Above: the policy gradient of the expected reward, over all answers at once, with a bonus for entropy."""
    optimizer = torch.optim.Adam(policy.parameters(), lr=2e-3)
    answers = torch.arange(MOST + 1)
    for _ in range(steps):
        rows = digits[torch.randint(len(digits), (64,))]
        with torch.no_grad():
            paid = reward(pairs(rows.repeat_interleave(MOST + 1, 0), answers.repeat(64))).sigmoid().view(64, -1)
        logprobs = policy(rows / 4.5 - 1).log_softmax(-1)
        optimizer.zero_grad()
        (-(logprobs.exp() * (paid - entropy * logprobs)).sum(-1).mean()).backward()
        optimizer.step()


@torch.no_grad()
def measure(policy: nn.Module, reward: nn.Module, digits: Tensor) -> tuple[float, float]:
    """AUC of the reward and accuracy of the policy."""
    right = digits.sum(1)
    off = torch.randint(1, 4, (len(digits),)) * (2 * torch.randint(2, (len(digits),)) - 1)
    scores, others = (reward(pairs(digits, answers))[:, 0] for answers in (right, right + off))
    correct = policy(digits / 4.5 - 1).argmax(-1) == right
    return float((scores[:, None] > others).float().mean()), float(correct.float().mean())


def run(asks: str, questions: list[int], seed: int) -> list[tuple[float, float]]:
    """Asks as often as the last number says; what was measured at each number."""
    torch.manual_seed(seed)
    expert, reward, policy = Expert(), network(4, 1), network(3, MOST + 1)
    triples = torch.cartesian_prod(*[torch.arange(10)] * 3)[torch.randperm(1000)]
    train, test = triples[:800], triples[800:]
    digits, answers, verdicts = torch.empty(0, 3, dtype=torch.long), torch.empty(0, dtype=torch.long), torch.empty(0)
    found = []
    while len(verdicts) < questions[-1]:
        asked = train[torch.randint(len(train), (BATCH,))]
        likely = policy(asked / 4.5 - 1).softmax(-1) if asks == "policy" else torch.ones(BATCH, MOST + 1)
        chosen = torch.multinomial(likely.detach(), 1)[:, 0]
        claims = [f"{a}+{b}+{c}={s}" for (a, b, c), s in zip(asked.tolist(), chosen.tolist(), strict=True)]
        digits, answers = torch.cat([digits, asked]), torch.cat([answers, chosen])
        verdicts = torch.cat([verdicts, expert.judge(claims)])
        fit_reward(reward, digits, answers, verdicts, 200)
        train_policy(policy, reward, train, 100)
        if len(verdicts) in questions:
            found.append(measure(policy, reward, test))
            right = float(verdicts.mean())
            print(
                f"{asks}, seed {seed}, {len(verdicts)} verdicts ({right:.2f} of them correct): AUC {found[-1][0]:.3f}, "
                f"accuracy {found[-1][1]:.3f}",
                flush=True,
            )
    return found


def main() -> None:
    """Both ways of asking, seed by seed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--questions", type=int, nargs="+", default=[200, 1000, 5000], help=f"multiples of {BATCH}")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for seed in range(options.seeds):
        for asks in ("policy", "random"):
            run(asks, sorted(options.questions), seed)


if __name__ == "__main__":
    main()
