"""``sinkscope models``: what can be loaded, and what of it can be seen."""

from typing import Annotated, Any

import typer

__all__ = ["models"]


def models(
    family: Annotated[
        str | None, typer.Argument(help="Say which sites this family has, and why not others.")
    ] = None,
) -> None:
    """List what can be loaded: bundled models, multimodal families, encoders, language models."""
    from rich.console import Console

    from sinkscope.subjects.catalogue import families_in_words

    console = Console()
    if family is not None:
        console.print(families_in_words(family), markup=False, highlight=False)
        return
    _bundled(console)
    _multimodal(console)
    _encoders(console)
    _language_models(console)
    console.print("\nsites of one of them, and why it lacks others: sinkscope models FAMILY")
    console.print("any other family: sinkscope.register_family", style="dim")


def _bundled(console: Any) -> None:
    from rich.table import Table

    from sinkscope.subjects.subject import bundled

    shipped = Table("bundled", "what it is", box=None, header_style="bold")
    for model in bundled():
        shipped.add_row(model.name, model.summary)
    console.print(shipped)
    console.print("avsr: folders of sinkscope's own Llama-AVSR\n")


def _multimodal(console: Any) -> None:
    from rich.table import Table

    from sinkscope.subjects.catalogue import encoders_of, unlisted
    from sinkscope.subjects.multimodal.registry import composites

    table = Table("multimodal", "model_type", "reads", "encoders alone", box=None)
    table.header_style = "bold"
    for row in composites().values():
        alone = ", ".join(encoders_of(row)) or "none"
        table.add_row(row.title, row.model_type, ", ".join(row.streams), alone)
    console.print(table)
    console.print(f"not supported, refused by name: {', '.join(unlisted())}\n", style="dim")


def _encoders(console: Any) -> None:
    from sinkscope.subjects.encoder_rows import encoder_rows

    console.print("encoders, as loaded modules", style="bold")
    names = sorted(name for place, name in encoder_rows() if place.startswith("transformers."))
    console.print(", ".join(names))
    console.print("Whisper whole: its decoder, its cross-attention and its encoder\n")


def _language_models(console: Any) -> None:
    from sinkscope.subjects.families import families

    console.print("language models, from a folder, a hub's id or a loaded module", style="bold")
    console.print(", ".join(families()))
