"""`python -m cordee.coordinator.cli`: the command line where no `cordee` is on the path."""

from cordee.coordinator.cli import main

__all__: list[str] = []

if __name__ == "__main__":
    main()
