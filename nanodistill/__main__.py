"""`python -m nanodistill`: the same as the command `nanodistill`."""

from nanodistill.cli import main

if __name__ == "__main__":
    main()
