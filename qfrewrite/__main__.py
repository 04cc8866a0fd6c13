"""`python -m qfrewrite`."""

from qfrewrite.cli.main import entry

if __name__ == "__main__":
    entry()
