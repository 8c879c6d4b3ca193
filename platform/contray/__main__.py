"""`python -m contray`."""

from .cli import leave, main

leave(main())
