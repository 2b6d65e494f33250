"""How one massive activation comes about: what every block adds to it."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from sinkscope.analysis.ledger import BETWEEN
from sinkscope.analysis.origin import Origin
from sinkscope.errors import InputError
from sinkscope.plots.captions import entitle, layer_words, model_words
from sinkscope.plots.style import ACCENT, MUTED, drawing, plain

__all__ = ["birth", "chosen_birth"]

COLORS = {"attention": "#0072B2", "mlp": "#E69F00", "experts": "#009E73", BETWEEN: "#CC79A7"}
NAMES = {
    "attention": "attention adds",
    "mlp": "MLP adds",
    "experts": "experts add",
    BETWEEN: "added before the block",
}
SITES = {"attention": "attn_out", "mlp": "mlp_out", "experts": "expert_out", BETWEEN: "between"}


def birth(
    origin: Origin,
    *,
    sample: int | None = None,
    token: int | None = None,
    feature: int | None = None,
    ax: Axes | None = None,
) -> Axes:
    """What the parts of every block add to one feature of one token, and what that makes.

    Attention and MLP are shown without the experts beside them, which have bars of their own.

    Args:
        origin: what ``trace_origin`` returned.
        sample: of the births, which; the one with the largest value if nothing is said.
        token: position of the token.
        feature: the feature.
        ax: where to draw; a new figure if left out.

    Raises:
        InputError: if no such value was traced.
    """
    row = chosen_birth(origin, sample=sample, token=token, feature=feature, where="birth")
    ledger = origin.ledger
    own = ledger.loc[
        (ledger["sample"] == row["sample"])
        & (ledger["token"] == row["token"])
        & (ledger["feature"] == row["feature"])
    ]
    layers = own["layer"].to_numpy(int)
    with drawing(ax, figsize=(6.4, 3.6)) as axes:
        up, down = np.zeros(len(layers)), np.zeros(len(layers))
        for part, added in _parts(own, ledger.attrs.get("experts_beside", "")).items():
            base = np.where(added >= 0, up, down)
            axes.bar(layers, added, 0.62, bottom=base, color=COLORS[part], label=NAMES[part])
            up, down = up + np.clip(added, 0, None), down + np.clip(added, None, 0)
        axes.plot(
            layers, own["resid_post"], color="black", marker="o", ms=4, lw=1.4, label="value after"
        )
        axes.axhline(0, color=MUTED, lw=0.6)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.axvspan(row["layer"] - 0.42, row["layer"] + 0.42, color=ACCENT, alpha=0.14, lw=0)
        axes.set_xlabel("layer (0-based; papers count from 1)")
        axes.set_ylabel("activation (model units)")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        entitle(
            axes,
            f"Feature {row['feature']} of {plain(row['label'])}: born in layer {row['layer']}",
            model_words(origin.births.attrs),
            f"token {row['token']} of sample {row['sample']}",
            f"shaded: {layer_words(int(row['layer']))}, {_author(row)}",
        )
    return axes


def _parts(own: pd.DataFrame, beside: str) -> dict[str, np.ndarray]:
    """What each part adds by itself in every layer."""
    added = {part: own[site].to_numpy(float) for part, site in SITES.items() if site in own}
    if beside in added:
        added[beside] = added[beside] - added["experts"]
    return added


def chosen_birth(
    origin: Origin, *, sample: int | None, token: int | None, feature: int | None, where: str
) -> dict[Any, Any]:
    """The row of births that is asked for; the largest of those that fit.

    Raises:
        InputError: if none fits.
    """
    births: pd.DataFrame = origin.births
    for name, wanted in (("sample", sample), ("token", token), ("feature", feature)):
        if wanted is not None:
            births = births.loc[births[name] == wanted]
    if not len(births):
        raise InputError(
            f"{where}: no such value was traced; look at origin.births for samples, tokens and "
            "features."
        )
    return births.iloc[int(births["peak"].abs().to_numpy().argmax())].to_dict()


def _author(row: dict[Any, Any]) -> str:
    if row["part"] == "embedding":
        return "it enters with the embedding"
    part = {
        "mlp": "its MLP makes",
        "experts": "its experts make",
        BETWEEN: "what is added before it makes",
    }
    made = part.get(row["part"], "its attention makes")
    return f"{made} {row['share']:.0%} of the change"
