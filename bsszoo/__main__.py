"""``python -m bsszoo``, and ``torchrun -m bsszoo``: the command line."""

from bsszoo.cli.main import main

if __name__ == "__main__":
    main()
