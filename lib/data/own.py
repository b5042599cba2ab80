"""The former name of lib.own, for published commands: python -m lib.data.own."""
import importlib

from lib.process.ending import run_script


def main(argv: list[str] | None = None) -> None:
    """What python -m lib.own does."""
    importlib.import_module('lib.own.__main__').main(argv)


if __name__ == '__main__':
    run_script(main)
