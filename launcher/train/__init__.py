"""Training. Importing anything below it drops one line of bitsandbytes, which transformers loads, from the log."""

import logging


def _is_wanted(record: logging.LogRecord) -> bool:
    # It misses a package that would fetch a kernel from the network at import; nothing here needs that kernel.
    return "kernels-community" not in record.getMessage()


# A filter of the logger, so that it holds before any handler is there: the line is said while bitsandbytes is imported.
logging.getLogger("bitsandbytes.backends.cpu.ops").addFilter(_is_wanted)
