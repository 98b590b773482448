"""Applications above the learner: `aipo view`, `aipo play`, `aipo report`. None of them needs torch to start."""
