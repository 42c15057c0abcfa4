"""What reinforcement-learning suites share: environments in batches, rollouts, advantages, surrogates.

Environments are stepped for all tasks and trajectories at once; the only loop is over time. What is recorded is data
like any other: the meta-loss, its gradient and the trust region are pure functions of it.
Letters: T tasks, B trajectories of a task, H time-steps, O observation, A action, D parameters of its distribution.
"""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal, NamedTuple, Protocol, Self, cast

import torch
from pydantic import Field
from torch import Generator, Tensor

from bench.core.types import Acted, Actor, Interactive, Metric, Moment, Params, Role, Split, Tasks
from suites.parts.policies import Policy

Estimator = Literal["maml", "lvc", "dice", "emaml"]


class Environment(Protocol):
    """Simulations of all trajectories of all tasks, stepped together; it holds their state."""

    horizon: int  # time-steps after which every episode ends

    def reset(self, tasks: Tasks, trajectories: int, generator: Generator) -> Tensor:
        """The first observations, [T, B, O], float32; whatever is random about them comes from the generator.

        Those of a suite `of_tensors` are where the tasks are; the generator's draws are made on the CPU and moved.
        """
        ...

    def step(self, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Observation [T, B, O], reward [T, B] and done [T, B] after actions [T, B, A], or [T, B] where they count.

        What is returned for a trajectory that was done before is ignored. An observation or reward that is not finite
        ends its episode, which is counted as unstable; an environment that notices by itself may return NaN.
        """
        ...


class Trajectories(NamedTuple):
    """One task's episodes, padded to the horizon."""

    observations: Tensor  # [B, H, O]
    actions: Tensor  # [B, H, A], or [B, H] where they are counted
    rewards: Tensor  # [B, H], 0 after the end
    mask: Tensor  # [B, H], bool: the step was taken
    advantages: Tensor  # [B, H], standardised, 0 after the end
    scale: Tensor  # [], what the advantages were divided by
    unstable: Tensor  # [B], bool: ended since the simulation broke down
    behaviour: Tensor | tuple[()]  # [B, H, D]: what the actions were drawn from; () of a support, which is never judged
    success: Tensor | tuple[()] = ()  # [B], 1 where the episode reached what the environment calls success, if any
    explored: Tensor | tuple[()] = ()  # [B, H, D]: of a support, what its actions were drawn from


@dataclass(frozen=True, kw_only=True)
class Reinforcement(Interactive):
    """Maximise the return: an inner step follows the policy gradient, the outer rule is TRPO."""

    estimator: Annotated[
        Estimator,
        Field(
            description="of the meta-gradient; inside stands maml: log π · A, as published; lvc: π / stop(π) · A; "
            "dice: cumulative; emaml: as maml, and credit for what the support explored"
        ),
    ] = "maml"
    outer: Annotated[Literal["trpo", "adam"], Field(description="the outer rule")] = "trpo"
    kl: Annotated[float, Field(gt=0, description="TRPO's bound on the mean KL of the adapted policies, nats")] = 0.01
    trajectories: Annotated[int, Field(ge=1, description="of one task before and after each inner step")] = 20

    metrics: ClassVar[tuple[Metric, ...]] = (Metric("return", "", "higher"), Metric("time-steps", "", "lower", low=0))
    discount: ClassVar[float] = 0.99
    gae: ClassVar[float] = 1.0  # λ of generalised advantage estimation

    def environment(self) -> Environment:
        """New simulations, not yet reset."""
        raise NotImplementedError

    def module(self) -> Policy:
        """The policy."""
        raise NotImplementedError

    @property
    def test_trajectories(self) -> int:
        """Of one task before and after each inner step, at test."""
        return self.trajectories

    def pace(self, step: int) -> float:
        """By what the gradient at an inner step is multiplied, where a protocol changes its rate on the way."""
        return 1.0

    @property
    def evaluations(self) -> tuple[Self, ...]:
        """Scored on as many trajectories as the protocol tests with."""
        return (replace(self, trajectories=self.test_trajectories),)

    def pretraining(self) -> Self:
        """The same tasks with as many environment steps as a learner takes that adapts once and is then judged."""
        return replace(self, trajectories=2 * self.trajectories)

    def check(self, split: Split = "test") -> None:
        """Raises what is wrong with the environment before anything is trained."""
        generator = torch.Generator().manual_seed(0)
        self.environment().reset(self.sample(1, split, generator), 1, generator)

    def collect(
        self, tasks: Tasks, params: Params | Actor, role: Role, step: int, generator: Generator
    ) -> Trajectories:
        """Episodes of the tasks' policies, parameters [T, ...], or of an actor's, with advantages; leaves [T, B, ...].

        For an actor with a memory each trajectory is a trial of its own, whose episodes follow each other over the
        inner steps: trajectory b of a step goes on from what was remembered at the end of b in the step before.
        """
        with torch.no_grad():
            seen = self.rollout(tasks, params, generator)
            values = baseline(seen.observations, discounted(seen.rewards, self.discount), seen.mask)
            after = torch.cat([values[..., 1:], torch.zeros_like(values[..., :1])], -1)
            surprise = (seen.rewards + self.discount * after - values) * seen.mask
            advantages, scale = standardised(discounted(surprise, self.discount * self.gae), seen.mask)
        if role == "support":
            return seen._replace(
                advantages=advantages * self.pace(step), scale=scale, behaviour=(), explored=seen.behaviour
            )
        return seen._replace(advantages=advantages, scale=scale)

    def rollout(self, tasks: Tasks, params: Params | Actor, generator: Generator) -> Trajectories:
        """A fixed quota of complete episodes, leaves [T, B, ...], without advantages."""
        environment, policy = self.environment(), self.policy
        observation = environment.reset(tasks, self.trajectories, generator)
        noise = policy.noise(environment.horizon, *observation.shape[:2], generator=generator).to(observation.device)
        alive = torch.ones_like(observation[..., 0], dtype=torch.bool)
        unstable = ~alive
        rows: list[tuple[Tensor, ...]] = []
        moment = Moment(observation, torch.zeros_like(noise[0]), torch.zeros_like(alive, dtype=torch.float32), alive)
        for eps in noise:
            behaviour = params(moment) if callable(params) else self.act(params, observation)
            action = policy.sample(behaviour, eps)
            seen, reward, done = environment.step(action)
            broken = alive & ~(seen.isfinite().all(-1) & reward.isfinite())
            rows.append((observation, action, torch.where(alive & ~broken, reward, 0.0), alive, behaviour))
            unstable = unstable | broken
            alive = alive & ~done & ~broken
            if not alive.any():
                break
            observation = torch.where(alive.unsqueeze(-1), seen, observation)  # what is over stays where it was
            if callable(params):
                moment = Moment(observation, policy.shown(action), rows[-1][2], torch.zeros_like(alive))
        observations, actions, rewards, mask, behaviours = (
            _padded(torch.stack(row, 2), environment.horizon) for row in zip(*rows, strict=True)
        )
        empty = rewards.new_zeros(len(mask))
        return Trajectories(
            observations, actions, rewards, mask, torch.zeros_like(rewards), empty, unstable, behaviours,
            getattr(environment, "success", ()),
        )  # fmt: skip

    @property
    def policy(self) -> Policy:
        """The module whose distribution is drawn from."""
        return cast(Policy, self.skeleton)

    def differentiated(self) -> Self:
        """With the policy that is so."""
        other = replace(self)
        vars(other)["skeleton"] = self.policy.differentiated()  # as the property keeps it
        return other

    def act(self, params: Params, observation: Tensor) -> Tensor:
        """The distributions' parameters, [T, B, D], of policies with parameters [T, ...]."""
        return self.call(params, observation)

    def inputs(self, data: Trajectories) -> Tensor:
        """The observations, [B, H, O]."""
        return data.observations

    def predict(self, params: Params, data: Trajectories) -> Tensor:
        """The distributions' parameters, [B, H, D]."""
        return self.call(params, data.observations)

    def features(self, params: Params, data: Trajectories) -> Tensor:
        """What comes before the policy's last layer, [B, H, F]; by its layers, however it is differentiated."""
        by_paths, self.policy.by_paths = self.policy.by_paths, False
        try:
            return super().features(params, data)
        finally:
            self.policy.by_paths = by_paths

    def answer(self, params: Params, features: Tensor) -> Tensor:
        """The same from features, [B, H, F]; a Gaussian's log-deviations are no part of those, but of `params`."""
        return self.call(params, features, False)

    def losses(self, prediction: Tensor, data: Trajectories) -> Tensor:
        """Minus the surrogate of each time-step, [B · H], scaled such that their mean is that of the steps taken."""
        mask = data.mask.to(prediction.dtype)
        log_prob = self.policy.log_prob(prediction, data.actions)
        if not isinstance(data.behaviour, tuple):  # judged: importance-weighted (Schulman et al. 2015)
            weight = (log_prob - self.policy.log_prob(data.behaviour, data.actions)).exp()
        elif self.estimator == "lvc":  # Rothfuss et al. 2019, arXiv:1810.06784, equation 6
            weight = (log_prob - log_prob.detach()).exp()
        elif self.estimator == "dice":  # Farquhar et al. 2019, arXiv:1909.10549, equation 11
            so_far = (log_prob * mask).cumsum(-1)
            before = so_far - log_prob * mask
            weight = (so_far - so_far.detach()).exp() - (before - before.detach()).exp()
        else:  # Finn et al. 2017, equation 4
            weight = log_prob
        return -(weight * data.advantages * mask * (mask.numel() / mask.sum())).flatten()

    def acted(self, data: Trajectories) -> Acted:
        """What was recorded."""
        behaviour = cast(Tensor, data.explored if isinstance(data.behaviour, tuple) else data.behaviour)
        actions = self.policy.shown(data.actions).to(data.rewards.dtype)
        return Acted(data.observations, actions, data.rewards, data.mask, data.advantages, behaviour)

    def log_prob(self, prediction: Tensor, data: Trajectories) -> Tensor:
        """The log-likelihood of the recorded actions, [B, H]."""
        return self.policy.log_prob(prediction, data.actions)

    def exploration(self, params: Params, support: Trajectories, query: Trajectories) -> Tensor | None:
        """Minus log π(support) times what the query earned per step: the term that E-MAML adds; else None.

        Stadie et al. 2018, arXiv:1803.01118, equation 5: the sampling of the support depends on the parameters too.
        In the units of the judged loss, which is the return over the steps taken and the advantages' scale.
        """
        if self.estimator != "emaml":
            return None
        log_prob = self.policy.log_prob(self.predict(params, support), support.actions) * support.mask
        return -log_prob.sum() * query.rewards.sum() / (query.mask.sum() * query.scale)

    def divergence(self, prediction: Tensor, data: Trajectories) -> Tensor:
        """Mean KL from the behaviour to the prediction over the steps taken, nats."""
        kl = self.policy.divergence(self.acted(data).behaviour, prediction) * data.mask
        return kl.sum() / data.mask.sum()

    def excerpt(self, data: Trajectories) -> Trajectories:
        """A quarter of every task's trajectories [T, B, ...]."""
        some = -(-self.trajectories // 4)
        observations, actions, rewards, mask, advantages = (x[:, :some] for x in data[:5])
        behaviour = data.behaviour if isinstance(data.behaviour, tuple) else data.behaviour[:, :some]
        return Trajectories(
            observations, actions, rewards, mask, advantages, data.scale, data.unstable[:, :some], behaviour
        )

    def score(self, prediction: Tensor, data: Trajectories) -> dict[str, Tensor]:
        """The mean undiscounted return of an episode, and all time-steps taken."""
        return {"return": data.rewards.sum(-1).mean(), "time-steps": data.mask.sum().to(data.rewards.dtype)}

    def tally(self, data: Trajectories) -> dict[str, float]:
        """Of the episodes of all tasks: environment steps, mean return, how many broke down."""
        return {
            "environment_steps": float(data.mask.sum()),
            "return": float(data.rewards.sum(-1).mean()),
            "unstable": float(data.unstable.sum()),
        }


def discounted(rewards: Tensor, discount: float) -> Tensor:
    """Σ_{t' ≥ t} discount^(t' − t) · rewards_t', [..., H] -> [..., H]."""
    steps = torch.arange(rewards.shape[-1], device=rewards.device)
    ahead = steps.unsqueeze(1) - steps  # [t', t]
    weights = torch.where(ahead >= 0, steps.new_tensor(discount, dtype=torch.float64) ** ahead.clamp(min=0), 0.0)
    return rewards @ weights.to(rewards.dtype)


def baseline(observations: Tensor, returns: Tensor, mask: Tensor, ridge: float = 1e-5) -> Tensor:
    """Values [T, B, H] by least squares on the features o, o², t, t², t³, 1, fitted to the same returns.

    Duan et al. 2016, arXiv:1604.06778, appendix; as in their code o is cut to ±10 and t counts hundreds of steps.
    """
    o = observations.double().clamp(-10, 10)
    t = (torch.arange(o.shape[-2], dtype=torch.float64, device=o.device) / 100).view(-1, 1).expand(*o.shape[:-1], 1)
    features = torch.cat([o, o.square(), t, t**2, t**3, torch.ones_like(t)], -1)  # [T, B, H, F]
    x = (features * mask.unsqueeze(-1)).flatten(1, 2)  # [T, N, F]
    y = (returns.double() * mask).flatten(1, 2).unsqueeze(-1)
    gram = x.mT @ x + ridge * torch.eye(x.shape[-1], dtype=torch.float64, device=x.device)
    weights = torch.cholesky_solve(x.mT @ y, torch.linalg.cholesky(gram))
    return ((features.flatten(1, 2) @ weights).squeeze(-1).view(mask.shape) * mask).to(returns.dtype)


def standardised(advantages: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Advantages [T, B, H] with mean 0 and deviation 1 over a task's steps taken, 0 elsewhere; their deviation, [T]."""
    count = mask.sum((1, 2), keepdim=True)
    centred = (advantages - (advantages * mask).sum((1, 2), keepdim=True) / count) * mask
    deviation = (centred.square().sum((1, 2), keepdim=True) / count).sqrt() + 1e-8
    return centred / deviation, deviation.flatten()


def _padded(steps: Tensor, horizon: int) -> Tensor:
    missing = horizon - steps.shape[2]
    if not missing:
        return steps
    return torch.cat([steps, steps.new_zeros(*steps.shape[:2], missing, *steps.shape[3:])], 2)
