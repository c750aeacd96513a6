"""`python -m tests.fuzz <target> <seconds> [<seed>]`: fuzzes a target by its coverage, and ends by itself.

What fails is printed with its bytes, and is their file's content in the directory it runs in.
"""

import sys
import tempfile
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["app", "jose", "yaml", "json"], enable_loader_override=False):
    from tests.fuzz.targets import SEEDS, TARGETS

MEGABYTES = 1_500
SECONDS_FOR_ONE = 5


def main() -> None:
    name, seconds, *rest = sys.argv[1:]
    corpus = Path(tempfile.mkdtemp(prefix="fuzz-"))
    for number, seed in enumerate(SEEDS[name]):
        (corpus / str(number)).write_bytes(seed)
    options = {
        "max_total_time": seconds,
        "seed": rest[0] if rest else "1",
        "timeout": SECONDS_FOR_ONE,
        "rss_limit_mb": MEGABYTES,
        "max_len": 4_096,
        "artifact_prefix": f"{corpus}/",
    }
    arguments = [f"-{option}={value}" for option, value in options.items()]
    atheris.Setup([sys.argv[0], *arguments, str(corpus)], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
