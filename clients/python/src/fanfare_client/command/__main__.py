"""`python -m fanfare_client.command`."""

import sys

from fanfare_client.command import main

sys.exit(main())
