"""``python -m edgeexit`` is the command ``edgeexit``."""

from edgeexit.cli.app import main

main()
