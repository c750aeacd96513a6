"""What the README says of the code is true."""

import re
from pathlib import Path

from app.domain.states import LEGAL

README = (Path(__file__).parents[2] / "README.md").read_text()


def test_the_state_diagram_is_the_table_of_legal_transitions():
    drawn = {tuple(edge) for edge in re.findall(r"^  ([A-Z]+) --> ([A-Z]+)$", README, re.MULTILINE)}
    assert drawn == {(old.value, new.value) for old, allowed in LEGAL.items() for new in allowed}


def test_every_file_of_the_main_path_exists():
    for path in re.findall(r"`(app/[a-z_/.]+)`", README):
        assert (Path(__file__).parents[2] / path).exists(), path
