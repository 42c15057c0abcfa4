"""2D navigation as one would write it first: an environment, an action, a step at a time. A worker of test_acting.py.

`python one_by_one.py FIRST LAST`: for every line read, acts in training tasks FIRST..LAST-1 and prints the steps taken.
"""

import sys
from typing import Any

import numpy as np
import torch

from bench.core import seeds
from suites.navigation2d import HORIZON, NEAR, REACH, Navigation2D


class Point:
    """The environment as for gymnasium: one episode at a time, in NumPy."""

    def __init__(self, goal: Any) -> None:
        self.goal = goal

    def reset(self) -> Any:
        self.position = np.zeros(2, np.float32)
        return self.position

    def step(self, action: Any) -> tuple[Any, float, bool]:
        self.position = self.position + np.clip(REACH * action, -REACH, REACH)
        gap = self.position - self.goal
        return self.position, -float(np.linalg.norm(gap)), bool((np.abs(gap) < NEAR).all())


def act(policy: Any, goals: Any, trajectories: int) -> int:
    steps = 0
    for environment in map(Point, goals):
        for _ in range(trajectories):
            observation = environment.reset()
            for _ in range(HORIZON):
                mean, log_std = policy(torch.from_numpy(observation)).chunk(2)
                action = (mean + log_std.exp() * torch.randn(2)).numpy()
                observation, _, done = environment.step(action)
                steps += 1
                if done:
                    break
    return steps


def main(first: int, last: int) -> None:
    torch.set_num_threads(1)
    suite = Navigation2D()
    policy = suite.module()
    policy.load_state_dict(suite.new_params(seeds.generator(1)))
    goals = suite.sample(20, "train", seeds.generator(0)).goal[first:last].numpy()
    with torch.no_grad():
        for _ in sys.stdin:
            sys.stdout.write(f"{act(policy, goals, suite.trajectories)}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
