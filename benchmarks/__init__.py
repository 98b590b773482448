"""Measurements: speed side by side with peers."""

from aipo_env.installation import require_own as _require_own

_require_own("algorithms")
