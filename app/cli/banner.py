"""What a person is told once a server is ready: where it is, how to get in, what to try."""

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from app.settings import DEFAULT_DATA_DIR, Settings

if TYPE_CHECKING:
    from app.services.identity import FirstAdmin

_USUAL_URL = f"http://127.0.0.1:{Settings.model_fields['port'].default}"
_LABEL_WIDTH = 11


@dataclass(frozen=True, slots=True)
class Place:
    """A running server: its address and its data directory."""

    url: str
    data_dir: Path

    @property
    def data_option(self) -> str:
        """What commands about it need on the command line."""
        return "" if self.data_dir == DEFAULT_DATA_DIR else f" --data-dir {self.data_dir}"

    @property
    def options(self) -> str:
        """The same for commands that talk to it."""
        return ("" if self.url == _USUAL_URL else f" --server {self.url}") + self.data_option


def greet(console: Console, place: Place, admin: "FirstAdmin") -> None:
    """The banner of a server that is ready."""
    console.print()
    console.print(Text.assemble(("Stepstream", "bold cyan"), f" {version('stepstream')} is ready"))
    console.print()
    show_ways_in(console, place, admin)
    console.print()
    console.print("Ctrl-C stops it; what is still running goes on at the next start.", style="dim")
    console.print()


def show_ways_in(console: Console, place: Place, admin: "FirstAdmin") -> None:
    """Addresses, the first account, and commands to try."""
    lines = {
        "API docs": Text(f"{place.url}/docs", "cyan"),
        "Sign in": Text(admin.email),
        "Password": _password(admin),
        "Token": Text(f"stepstream token{place.data_option}"),
        "Run one": Text(f"stepstream run workflow.yaml --input '{{}}'{place.options}"),
        "Data": Text(str(place.data_dir)),
    }
    for label, value in lines.items():
        # Unwrapped, so that addresses and commands can be copied.
        console.print(Text.assemble("  ", (label.ljust(_LABEL_WIDTH), "bold"), value), soft_wrap=True)


def announce_admin(console: Console, admin: "FirstAdmin") -> None:
    """Say who can sign in, if that is new."""
    if admin.created:
        console.print(f"The first admin is {admin.email}; the password is in {admin.password_file}.", soft_wrap=True)


def _password(admin: "FirstAdmin") -> Text:
    if not admin.created:
        return Text.assemble("in ", str(admin.password_file), (" (as of the first start)", "dim"))
    password = admin.password_file.read_text().strip()
    return Text.assemble((password, "bold"), (f"   shown only now, kept in {admin.password_file}", "dim"))
