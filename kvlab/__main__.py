"""`python3 -m kvlab ...`: set up what is missing, then run the command.

This file and `shell/bootstrap.py` use the standard library alone and the grammar of Python 3.6, so
that an old Python answers with a sentence.
"""

import sys

NEEDED = (3, 11)


def main(argv=None):
    """Runs one command and returns its exit code."""
    argv = sys.argv[1:] if argv is None else list(argv)
    if sys.version_info[:2] < NEEDED:
        found = ".".join(str(part) for part in sys.version_info[:3])
        needed = ".".join(str(part) for part in NEEDED)
        sys.stderr.write(
            f"kvlab: this is Python {found}, and kvlab needs {needed} or newer: install one and"
            f" start kvlab with it, for example python{needed} -m kvlab lab\n"
        )
        return 1
    try:
        from kvlab.shell import bootstrap, cli, surroundings

        surroundings.settle()
        argv, code = bootstrap.prepare(argv, cli.parse)
        return cli.main(argv) if code is None else code
    except KeyboardInterrupt:  # what comes later has words of its own
        sys.stderr.write("kvlab: stopped.\n")
        return 130


if __name__ == "__main__":
    sys.exit(main())
