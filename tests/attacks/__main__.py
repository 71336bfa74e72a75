"""``python -m tests.attacks``."""

from tests.attacks.command import main

if __name__ == "__main__":
    main()
