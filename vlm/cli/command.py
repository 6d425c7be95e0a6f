"""What the small commands of this package share: quiet libraries, and a user's mistake told in one line."""

import sys
from collections.abc import Callable

from transformers.utils import logging


def carried_out(action: Callable[[], str]) -> int:
    """Exit status of ``action``: 0 when what it returns has been printed, 2 for a mistake, told on stderr."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        said = action()
    except (ValueError, OSError) as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(said)
    return 0
