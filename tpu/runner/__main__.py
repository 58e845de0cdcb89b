"""Starts the runner."""

from .loop import main

if __name__ == "__main__":
    main()
