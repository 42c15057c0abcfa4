"""Draws which share of each layer's units MT-net lets a task change, from finished runs on polynomials.

    for order in 0 1 2; do bench run --suite "polynomials[order=$order]" --algos mtnet --out runs/orders; done
    python examples/mtnet_subspace.py runs/orders mtnet.png

The claim of Lee, Choi 2018 (arXiv:1801.05558): the subspace that is learned grows with the order of the polynomial.
"""

import sys

import matplotlib.pyplot as plt
import torch

import bench


def main(root: str, path: str) -> None:
    """Draws the runs in `root` to `path`; orange is the mean of σ(ζ) over a layer's units."""
    results = bench.load(root)
    chosen = results[results["algorithm"].str.startswith("mtnet") & results["suite"].str.startswith("polynomials")]
    shares = []
    for cell in chosen["cell"].unique():
        seen = results.learner(cell).seen
        zeta = seen.meta["zeta"]
        shares += [(seen.suite.order, i, torch.sigmoid(z)) for i, z in enumerate(zeta.values())]  # type: ignore[attr-defined]
    layers = sorted({layer for _, layer, _ in shares})
    figure, axes = plt.subplots(1, len(layers), figsize=(7, 2.8), sharey=True, layout="constrained")
    for layer, ax in zip(layers, axes, strict=True):
        for order, _, share in sorted((s for s in shares if s[1] == layer), key=lambda s: s[0]):
            sideways = order + torch.linspace(-0.25, 0.25, len(share))
            ax.scatter(sideways, share, s=6, color="C0", alpha=0.5)
            ax.hlines(share.mean(), order - 0.3, order + 0.3, color="C1", linewidth=2)
            ax.text(order, 1.02, f"{share.mean():.3f}", ha="center", color="C1")
        width = len(next(s for _, i, s in shares if i == layer))
        ax.set(title=f"layer {layer + 1}, {width} unit{'s' * (width > 1)}", xlabel="order", xticks=[0, 1, 2])
        ax.set(xlim=(-0.5, 2.5), ylim=(0, 1.12))
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set(ylabel="σ(ζ): share of tasks\nthat may change a unit")
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main(*sys.argv[1:])
