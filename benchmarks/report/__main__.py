"""``python -m benchmarks.report``; see command.py."""

from __future__ import annotations

from benchmarks.report.command import main

raise SystemExit(main())
