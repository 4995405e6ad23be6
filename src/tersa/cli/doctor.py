"""`tersa doctor`: what this machine has, and what to install for the rest."""

from __future__ import annotations

from tersa.cli.console import Terminal
from tersa.cli.options import DataDir, Json

EPILOG = "Example: tersa doctor --json"


def doctor(data_dir: DataDir = None, json: Json = False) -> None:
    """Runtimes, processor, memory, data and cache of this machine, and what to install for the rest."""
    from tersa.recipes.doctor import diagnose

    found = diagnose(data_dir)
    terminal = Terminal(json=json)
    gigabyte = 1e9
    machine = [
        ("tersa", f"{found.tersa}, Python {found.python}, {found.system}"),
        ("processor", f"{found.processor}, {found.cores} cores; PyTorch uses {found.threads} threads"),
        *((f"  {name}", meaning) for name, meaning in found.features.items()),
        ("INT8", found.int8),
        (
            "memory",
            f"{found.memory_bytes / gigabyte:.1f} GB, {found.memory_free_bytes / gigabyte:.1f} GB free",
        ),
        ("GPU", found.gpu or "none that PyTorch can use"),
        ("cache", f"{found.cache}, {found.cache_bytes / 1e6:.1f} MB"),
    ]
    terminal.table("Machine", ("what", "found"), machine, left=2)
    runtimes = [
        (
            one.name,
            one.version or "not installed",
            ", ".join(one.precisions),
            one.features if one.version else one.install,
        )
        for one in found.runtimes
    ]
    terminal.table("Runtimes", ("target", "version", "runs", "uses, or how to get it"), runtimes, left=4)
    options = [(one.name, *option.split("=", 1)) for one in found.runtimes for option in one.options]
    terminal.table(
        "Options of a target, `NAME@OPTION=VALUE,...`", ("target", "option", "values"), options, left=3
    )
    remote = found.remote
    lines = [
        ("ssh client", remote.client or f"none; {remote.install}"),
        ("target", remote.form),
        ("RUNTIME", f"{', '.join(remote.runtimes)}; needs numpy and the runtime over there, not tersa"),
    ]
    terminal.table("Other machines", ("what", "how"), lines, left=2)
    packages = [(name, version or "not installed") for name, version in found.packages.items()]
    terminal.table("Packages", ("package", "version"), packages, left=2)
    data = [(one.name, one.state, one.location or "-", one.hint) for one in found.data]
    terminal.table("Data", ("name", "state", "where", "to get it"), data, left=4)
    terminal.result(found)
