"""The command line, the second composition root. Commands import what they need when they run: help is instant."""


def main() -> None:
    """The entry point `stepstream`."""
    from app.cli.commands import run_command_line

    run_command_line()
