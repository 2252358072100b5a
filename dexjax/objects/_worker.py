"""The process behind `build_assets`: reads items on stdin, answers with assets on stdout."""

from __future__ import annotations

import os
import sys

from dexjax.core.errors import DataError, DexjaxError
from dexjax.objects.batch import receive, run_item, send


def main() -> None:
    # Native libraries print to descriptor 1; the answers go over a private copy of it.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    while True:
        try:
            item, options, cache_dir = receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            reply: object = run_item(item, options, cache_dir)
        except DexjaxError as error:
            reply = error
        except Exception as error:
            reply = DataError(
                f"{item.name}: cannot be built ({type(error).__name__}: {str(error)[:120]}); "
                "repair or simplify the mesh"
            )
        send(answers, reply)


if __name__ == "__main__":
    main()
