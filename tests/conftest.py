"""What several tests share."""

import os
import shutil

import pytest


@pytest.fixture(scope="session")
def chromium():
    """Path of a browser for Playwright's `executable_path`; without one the test is skipped, and fails in CI."""
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path:
        return path
    reason = "no chromium here; `make test` installs it where it may (Debian: apt install chromium)"
    (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
