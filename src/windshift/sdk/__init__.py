"""The client library. Programs import it as `import windshift as ws`."""

import logging

logging.getLogger("windshift").addHandler(logging.NullHandler())
