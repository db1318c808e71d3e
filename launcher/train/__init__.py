"""Training. Importing anything below it drops two lines that libraries say while they are imported.

bitsandbytes, which transformers loads, misses a package that would fetch a kernel from the network; nothing here needs
that kernel. DeepSpeed, which TRL loads, says on stdout, where a program may expect JSON, that there is no GPU.
"""

import logging

_UNWANTED = {
    "bitsandbytes.backends.cpu.ops": "kernels-community",
    "DeepSpeed": "Setting accelerator to CPU",
}


def _drop(logger: str, words: str) -> None:
    # A filter of the logger, so that it holds before any handler is there: the line is said during the import.
    logging.getLogger(logger).addFilter(lambda record: words not in record.getMessage())


for _logger, _words in _UNWANTED.items():
    _drop(_logger, _words)
