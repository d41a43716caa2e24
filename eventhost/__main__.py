"""`python -m eventhost` is the command `eventhost`."""

from eventhost.cli import main

if __name__ == "__main__":
    main()
