"""``python -m wsplugin``: the same as the command ``wsplugin``."""

from wsplugin.cli import main

if __name__ == "__main__":
    main()
