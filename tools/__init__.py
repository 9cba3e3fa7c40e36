"""Programs, python -m tools.NAME."""

import stopping

stopping.while_found()  # PyTorch takes seconds to import: Ctrl-C is no traceback by then, too
