"""`python -m app.cli`: the same as `stepstream`."""

from app.cli import main

main()
