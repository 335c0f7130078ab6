"""Write `bundle.json` after training: `python -m models.bundles FOLDER NAME VERSION`."""

import sys
from pathlib import Path

from models.bundles import seal

if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(str(__doc__))
    sealed = seal(Path(sys.argv[1]), sys.argv[2], sys.argv[3])
    print(sealed.label, *(f"{name}={part.sha256[:8]}" for name, part in sealed.parts.items()))  # noqa: T201  # a command
