"""`python -m cpu_proc`: the same as the command `coldboot`. Read next: `cli`."""

import sys

from cpu_proc.cli import main

if __name__ == "__main__":
    sys.exit(main())
