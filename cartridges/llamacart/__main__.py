"""`python -m llamacart`."""

from llamacart.cli import main

if __name__ == "__main__":
    main()
