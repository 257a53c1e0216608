"""`python -m prefprobe`."""

from prefprobe.cli import main

main()
