"""The learner: objectives, advantages, rollouts and trainers."""
