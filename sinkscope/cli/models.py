"""``sinkscope models``: what can be loaded."""

__all__ = ["models"]


def models() -> None:
    """List the bundled models and the families that can be loaded from a folder or a hub."""
    from rich.console import Console
    from rich.table import Table

    from sinkscope.subjects.anatomy import families
    from sinkscope.subjects.subject import bundled

    console = Console()
    shipped = Table("bundled", "what it is", box=None, header_style="bold")
    for model in bundled():
        shipped.add_row(model.name, model.summary)
    console.print(shipped)
    console.print()
    console.print("families, from a folder, a hub's id or a loaded module", style="bold")
    console.print(", ".join(families()))
    console.print("avsr: folders of sinkscope's own Llama-AVSR")
    console.print("any other family: sinkscope.register_family", style="dim")
