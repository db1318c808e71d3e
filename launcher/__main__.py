"""`python -m launcher`: the same as the `launcher` command."""

from launcher.cli.app import main

if __name__ == "__main__":
    main()
