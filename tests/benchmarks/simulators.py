"""The bare simulators that test_physics.py compares with; `python simulators.py PART` runs them at each line it reads.

PART is 0 or 1, the half of the simulations; a line is the simulator's name; the answer is its name again.
"""

import sys
from pathlib import Path

import gymnasium
import mujoco
import numpy as np

SIMULATIONS, STEPS = 200, 25
XML = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "half_cheetah.xml"
ACTIONS = np.random.default_rng(0).uniform(-1, 1, (STEPS, SIMULATIONS, 6))


def mj_step(part: int) -> None:
    """Physics alone."""
    model = mujoco.MjModel.from_xml_path(str(XML))
    data = mujoco.MjData(model)
    for i in range(part, SIMULATIONS, 2):
        mujoco.mj_resetData(model, data)
        for action in ACTIONS[:, i]:
            data.ctrl[:] = action
            mujoco.mj_step(model, data, nstep=5)


def gym(part: int) -> None:
    """HalfCheetah-v5, bare of wrappers."""
    env = gymnasium.make("HalfCheetah-v5").unwrapped
    for i in range(part, SIMULATIONS, 2):
        env.reset(seed=i)
        for action in ACTIONS[:, i]:
            env.step(action)


if __name__ == "__main__":
    for line in sys.stdin:
        {"mj_step": mj_step, "gymnasium": gym}[line.strip()](int(sys.argv[1]))
        sys.stdout.write(line)
        sys.stdout.flush()
