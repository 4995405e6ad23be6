"""`python -m tersa` is `tersa`."""

from tersa.cli.main import run

if __name__ == "__main__":
    run()
