"""``python -m sombrero``."""

from sombrero.cli import main

if __name__ == "__main__":
    main()
