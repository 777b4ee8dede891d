#!/usr/bin/env python3
"""Make the golden numbers of PPO, tests/golden/ppo.json, from the papers' definitions.

    python3 scripts/ppo_reference.py tests/golden/ppo.json

NumPy alone, in float64, as the definitions are written and not as an implementation would compute them: sums over
the future instead of recursions, and every gradient checked against finite differences. Inputs are drawn with a fixed
seed and are multiples of 1/1024, so that float32, float64 and their decimals here are the same numbers.

Sources, as the functions name them:
  GAE      Schulman et al. 2016, High-Dimensional Continuous Control Using Generalized Advantage Estimation
  PPO      Schulman et al. 2017, Proximal Policy Optimization Algorithms
  HUMAN    Ziegler et al. 2019, Fine-Tuning Language Models from Human Preferences, and its code, lm-human-preferences
  KL       Schulman 2020, Approximating KL Divergence (joschu.net/blog/kl-approx.html)
  ADAM     Kingma and Ba 2015, Adam: A Method for Stochastic Optimization
  DPO      Rafailov et al. 2023, Direct Preference Optimization

The recorded numbers were made with Python 3.11 and NumPy 2.4.6.
"""
import argparse
import json
import pathlib

import numpy as np

LENGTHS = (1, 2, 7, 48)
DIGITS = 13  # of a number; what is drawn has no more


def on_grid(x):
    return np.round(np.asarray(x) * 1024) / 1024


class Draws:
    """Inputs: log-probabilities of sampled tokens, and numbers around zero."""

    def __init__(self, seed):
        self.rng = np.random.default_rng(seed)

    def normal(self, n, scale=1.0):
        return on_grid(self.rng.normal(0.0, scale, n))

    def log_probs(self, n):
        return on_grid(-self.rng.exponential(1.5, n) - 1 / 1024)

    def near(self, log_probs, scale):
        """Other log-probabilities of the same tokens, never above 0."""
        return np.minimum(log_probs + self.normal(len(log_probs), scale), -1 / 1024)


def gae(rewards, values, gamma, lam):
    """GAE, equation 16: Â_t = Σ_l (γλ)^l δ_{t+l}, δ_t = r_t + γ V(s_{t+1}) − V(s_t); the value after the end is 0."""
    n = len(rewards)
    following = np.append(values[1:], 0.0)
    delta = rewards + gamma * following - values
    return np.array([sum((gamma * lam) ** l * delta[t + l] for l in range(n - t)) for t in range(n)])


def whitened(values, kind, unbiased):
    """HUMAN, core.py `whiten`: (x − mean) · rsqrt(var + 1e-8); `shift_mean=False` ("scaled") adds the mean again."""
    mean = values.mean()
    divisor = len(values) - 1 if unbiased else len(values)
    variance = ((values - mean) ** 2).sum() / divisor
    result = (values - mean) / np.sqrt(variance + 1e-8)
    return result + mean if kind == "scaled" else result


def policy_terms(old, new, advantages, clip_range):
    ratio = np.exp(new - old)
    return -advantages * ratio, -advantages * np.clip(ratio, 1 - clip_range, 1 + clip_range)


def policy_loss(old, new, advantages, clip_range):
    """PPO, equation 7, as a loss: the mean over tokens of max(−A r, −A clip(r, 1 ± ε)), r = π(a) / π_old(a)."""
    return np.maximum(*policy_terms(old, new, advantages, clip_range)).mean()


def policy_gradient(old, new, advantages, clip_range):
    """∂r/∂log π = r; where the clipped term is the larger, it does not depend on π."""
    plain, clipped = policy_terms(old, new, advantages, clip_range)
    return np.where(clipped > plain, 0.0, plain) / len(new)


def value_terms(old, new, returns, clip_range):
    near = old + np.clip(new - old, -clip_range, clip_range)
    return (new - returns) ** 2, (near - returns) ** 2


def value_loss(old, new, returns, clip_range):
    """HUMAN, train_policy.py: ½ mean max((v − R)², (v_clipped − R)²), v_clipped at most ε from the old value."""
    return 0.5 * np.maximum(*value_terms(old, new, returns, clip_range)).mean()


def value_gradient(old, new, returns, clip_range):
    plain, clipped = value_terms(old, new, returns, clip_range)
    return np.where(clipped > plain, 0.0, new - returns) / len(new)


def kl(log_probs, reference, kind):
    """KL: estimates of KL(π, π_ref) from one sample of π, with d = log π − log π_ref."""
    d = log_probs - reference
    return {"k1": d, "k2": d**2 / 2, "k3": np.exp(-d) - 1 + d}[kind]


def adaptive_kl(initial, target, horizon, steps):
    """HUMAN, section 2.2, with the code's horizon: e = clip((KL − target) / target, ±0.2), β ← β (1 + e n / horizon),
    n the episodes that KL is the mean of."""
    coef, after = initial, []
    for measured, episodes in steps:
        error = np.clip((measured - target) / target, -0.2, 0.2)
        coef = coef * (1 + error * episodes / horizon)
        after.append(coef)
    return after


def shaped_rewards(log_probs, reference, score, kl_coef, kind, ended, missing_end, missing_end_value, clip):
    """HUMAN, equation 2: −β KL at every token, the score on the last.

    Of an answer that did not end: `fixed` gives it a score of its own (HUMAN, stylistic tasks, −1), `penalty` takes
    some of its score away.
    """
    rewards = -kl_coef * kl(log_probs, reference, kind)
    if clip is not None:
        score = min(max(score, -clip), clip)
    if not ended and missing_end == "penalty":
        score = score - missing_end_value
    if not ended and missing_end == "fixed":
        score = missing_end_value
    rewards[-1] += score
    return rewards


def adam(gradients, start, lr, beta1, beta2, eps, form):
    """ADAM: "torch" is algorithm 1, ε beside the corrected √v̂; "tensorflow" is section 2's other order, with ε̂."""
    m = v = 0.0
    weight, after = start, []
    for t, g in enumerate(gradients, start=1):
        m = beta1 * m + (1 - beta1) * g
        v = beta2 * v + (1 - beta2) * g**2
        if form == "torch":
            weight -= lr * (m / (1 - beta1**t)) / (np.sqrt(v / (1 - beta2**t)) + eps)
        else:
            weight -= lr * np.sqrt(1 - beta2**t) / (1 - beta1**t) * m / (np.sqrt(v) + eps)
        after.append(weight)
    return after


def ema(decay, weights):
    """Average of weights, from the first of them on: a ← d a + (1 − d) w."""
    average = [weights[0]]
    for weight in weights[1:]:
        average.append(decay * average[-1] + (1 - decay) * weight)
    return average


def dpo(chosen, rejected, reference_chosen, reference_rejected, beta):
    """DPO, equation 7, of each pair: −log σ(β ((π_c − ref_c) − (π_r − ref_r))), all sums of log-probabilities."""
    return np.log1p(np.exp(-beta * ((chosen - reference_chosen) - (rejected - reference_rejected))))


def dpo_gradient(chosen, rejected, reference_chosen, reference_rejected, beta):
    """With respect to `chosen`; that to `rejected` is its negative."""
    z = beta * ((chosen - reference_chosen) - (rejected - reference_rejected))
    return -beta / (1 + np.exp(z))


def assert_gradient(what, f, at, gradient):
    step = 1e-6
    for i, expected in enumerate(gradient):
        up, down = at.copy(), at.copy()
        up[i] += step
        down[i] -= step
        numeric = (f(up) - f(down)) / (2 * step)
        assert abs(numeric - expected) < 1e-7 + 1e-6 * abs(expected), f"{what}, {i}: {numeric} is not {expected}"


def gae_cases(draws):
    for n in LENGTHS:
        for gamma, lam in ((1.0, 0.95), (1.0, 1.0), (0.99, 0.9), (1.0, 0.0)):
            rewards, values = draws.normal(n, 0.25), draws.normal(n)
            rewards[-1] += on_grid(draws.rng.normal())
            advantages = gae(rewards, values, gamma, lam)
            yield {"rewards": rewards, "values": values, "gamma": gamma, "lambda": lam,
                   "advantages": advantages, "returns": advantages + values}


def whitening_cases(draws):
    for n in (2, 7, 48):
        values = on_grid(draws.normal(n, 2.0) + 1.5)
        for kind in ("centered", "scaled"):
            for unbiased in (False, True):
                yield {"values": values, "kind": kind, "unbiased": unbiased,
                       "whitened": whitened(values, kind, unbiased)}
    alike = np.full(5, 0.75)
    yield {"values": alike, "kind": "scaled", "unbiased": False, "whitened": whitened(alike, "scaled", False)}


def policy_loss_cases(draws):
    for n in LENGTHS:
        for clip_range, scale in ((0.2, 0.3), (0.1, 0.05), (0.2, 0.0)):
            old, advantages = draws.log_probs(n), draws.normal(n)
            new = draws.near(old, scale)
            plain, clipped = policy_terms(old, new, advantages, clip_range)
            gradient = policy_gradient(old, new, advantages, clip_range)
            assert_gradient("policy", lambda x: policy_loss(old, x, advantages, clip_range), new, gradient)
            yield {"old_log_probs": old, "log_probs": new, "advantages": advantages, "clip_range": clip_range,
                   "loss": policy_loss(old, new, advantages, clip_range), "gradient": gradient,
                   "clip_fraction": (clipped > plain).mean(), "approx_kl": 0.5 * ((new - old) ** 2).mean()}


def value_loss_cases(draws):
    for n in LENGTHS:
        for clip_range, scale in ((0.2, 0.3), (0.5, 0.5), (0.2, 0.0)):
            old = draws.normal(n)
            new, returns = old + draws.normal(n, scale), old + draws.normal(n)
            plain, clipped = value_terms(old, new, returns, clip_range)
            gradient = value_gradient(old, new, returns, clip_range)
            assert_gradient("value", lambda x: value_loss(old, x, returns, clip_range), new, gradient)
            yield {"old_values": old, "values": new, "returns": returns, "clip_range": clip_range,
                   "loss": value_loss(old, new, returns, clip_range), "gradient": gradient,
                   "clip_fraction": (clipped > plain).mean()}


def kl_cases(draws):
    for n, scale in zip(LENGTHS, (0.5, 2.0, 0.01, 0.5)):
        log_probs = draws.log_probs(n)
        reference = draws.near(log_probs, scale)
        yield {"log_probs": log_probs, "reference": reference,
               **{kind: kl(log_probs, reference, kind) for kind in ("k1", "k2", "k3")}}


def adaptive_kl_cases(draws):
    for initial, target, horizon, n in ((0.2, 6.0, 10000, 12), (0.15, 1.5, 2000, 20)):
        measured = on_grid(np.abs(target * (1 + draws.rng.normal(0.0, 0.4, n))))
        steps = list(zip(measured, draws.rng.choice([64, 512], n).tolist()))
        steps[0] = (target, 512)
        steps[1] = (-0.5, 512)
        yield {"initial": initial, "target": target, "horizon": horizon,
               "steps": [{"kl": measured, "episodes": episodes, "coef_after": after} for (measured, episodes), after
                         in zip(steps, adaptive_kl(initial, target, horizon, steps))]}


def rewards_cases(draws):
    for n, kind, ended, missing_end, value, clip, score in (
            (1, "k1", True, "none", None, None, 1.25), (2, "k1", True, "penalty", 1.0, None, -0.75),
            (2, "k3", False, "none", None, None, 2.5), (7, "k1", False, "penalty", 1.0, None, 0.5),
            (7, "k1", False, "fixed", -1.0, None, 3.25), (7, "k1", True, "fixed", -1.0, 2.0, 3.25),
            (7, "k3", False, "penalty", 1.5, 2.0, -6.5), (7, "k1", False, "fixed", -5.0, 2.0, 6.5),
            (48, "k1", True, "none", None, 10.0, 1.75), (48, "k3", False, "penalty", 1.0, 10.0, -12.5)):
        log_probs = draws.log_probs(n)
        given = {"log_probs": log_probs, "reference": draws.near(log_probs, 0.5), "score": score, "kl_coef": 0.05,
                 "kind": kind, "ended": ended, "missing_end": missing_end, "missing_end_value": value, "clip": clip}
        yield {**given, "rewards": shaped_rewards(**given)}


def adam_cases(draws):
    for scale, beta2, eps in ((1.0, 0.999, 1e-5), (1.0, 0.999, 1e-8), (0.01, 0.999, 1e-5), (0.01, 0.95, 1e-8)):
        given = {"gradients": draws.normal(6, scale), "start": float(draws.normal(1)[0]), "lr": 0.01, "beta1": 0.9,
                 "beta2": beta2, "eps": eps}
        yield {**given, **{form: adam(**given, form=form) for form in ("torch", "tensorflow")}}


def ema_cases(draws):
    for decay, n in ((0.992, 12), (0.5, 5), (0.0, 3)):
        weights = draws.normal(n)
        yield {"decay": decay, "weights": weights, "average": ema(decay, weights)}


def dpo_cases(draws):
    for n, beta, scale in ((1, 0.1, 0.0), (4, 0.1, 5.0), (8, 0.5, 3.0)):
        reference = [on_grid(-40 + draws.normal(n, 10.0)) for _ in range(2)]
        chosen, rejected = (on_grid(of + draws.normal(n, scale)) for of in reference)
        gradient = dpo_gradient(chosen, rejected, *reference, beta)
        assert_gradient("dpo, chosen", lambda x: dpo(x, rejected, *reference, beta).sum(), chosen, gradient)
        assert_gradient("dpo, rejected", lambda x: dpo(chosen, x, *reference, beta).sum(), rejected, -gradient)
        yield {"policy_chosen": chosen, "policy_rejected": rejected, "reference_chosen": reference[0],
               "reference_rejected": reference[1], "beta": beta, "losses": dpo(chosen, rejected, *reference, beta),
               "d_policy_chosen": gradient, "d_policy_rejected": -gradient}


# Each draws from its own seed, so that a case more of one leaves the others as they are.
CASES = {"gae": gae_cases, "whitening": whitening_cases, "policy_loss": policy_loss_cases,
         "value_loss": value_loss_cases, "kl": kl_cases, "adaptive_kl": adaptive_kl_cases, "rewards": rewards_cases,
         "adam": adam_cases, "ema": ema_cases, "dpo": dpo_cases}


def plain(value):
    """`value` as JSON has it; numbers with DIGITS digits."""
    if isinstance(value, dict):
        return {name: plain(of) for name, of in value.items()}
    if isinstance(value, (list, np.ndarray)):
        return [plain(of) for of in value]
    if isinstance(value, (float, np.floating)):
        return float(f"{float(value):.{DIGITS}g}") + 0.0  # no negative zero
    return value


def text(cases):
    """A field a line, whatever its length."""
    fields = (",\n".join(f"   {json.dumps(name)}: {json.dumps(value)}" for name, value in case.items())
              for case in cases)
    return "[\n" + ",\n".join(f"  {{\n{of}\n  }}" for of in fields) + "\n ]"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=pathlib.Path, metavar="FILE", help="the file to write, tests/golden/ppo.json")
    out = parser.parse_args().out
    made = {name: plain(list(cases(Draws(100 + i)))) for i, (name, cases) in enumerate(CASES.items())}
    out.write_text("{\n" + ",\n".join(f' {json.dumps(name)}: {text(cases)}' for name, cases in made.items()) + "\n}\n")


if __name__ == "__main__":
    main()
