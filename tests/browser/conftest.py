"""JupyterLab as `make lab` starts it, on a copy of the labs, and a page of a headless Chromium."""

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), None)
QUIET = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"),
    *("--disable-component-update", "--disable-quic", "--disable-dev-shm-usage"),
)
# Cells outside the window are not in the page otherwise, and nobody is asked for news.
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none"}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


def pytest_collection_modifyitems(items):
    """Without Chromium or Playwright there is nothing to test with."""
    try:
        import playwright  # noqa: F401
    except ModuleNotFoundError:
        reason = "Playwright is missing: pip install -e '.[browser]'"
    else:
        reason = None if CHROMIUM else f"no Chromium: none of {', '.join(BROWSERS)} is installed"
    for item in items:
        if reason and Path(item.fspath).parent == Path(__file__).parent:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def course(tmp_path_factory):
    """A course folder of its own: notebooks are saved while they are worked on."""
    folder = tmp_path_factory.mktemp("course")
    shutil.copytree(ROOT / "labs", folder / "labs", ignore=shutil.ignore_patterns(".*"))
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


@pytest.fixture(scope="session")
def jupyter(course):
    """The address of a JupyterLab on loopback, with its token; it is ended by its own process id."""
    home = course / "jupyter"
    for name, text in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    settings = {
        "JUPYTER_CONFIG_DIR": str(home / "config"),
        "JUPYTER_DATA_DIR": str(home / "data"),
        "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "workspaces"),
        "COMPRESSLAB_PROGRESS": str(course / "progress.json"),
    }
    # The other tests draw into nothing; here pictures are to be seen.
    inherited = {key: value for key, value in os.environ.items() if key != "MPLBACKEND"}
    log = course / "jupyter.log"
    command = [sys.executable, "-m", "compresslab.cli", "lab", "--no-browser", "--port", "0"]
    with log.open("wb") as out:
        server = subprocess.Popen(
            command, cwd=course, env=inherited | settings, stdout=out, stderr=out
        )
    try:
        yield address_of(log, server)
    finally:
        ended(server)


def ended(server):
    """End a server of ours, by force if it does not listen."""
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def address_of(log, server):
    for _ in range(600):
        found = re.search(r"http://127\.0\.0\.1:(\d+)/\S*\?token=(\w+)", log.read_text("utf-8"))
        if found:
            return found.groups()
        if server.poll() is not None:
            break
        time.sleep(0.1)
    pytest.fail(f"JupyterLab did not start:\n{log.read_text('utf-8')}")


@pytest.fixture(scope="session")
def chromium():
    """A headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def page(chromium):
    """A fresh window."""
    context = chromium.new_context(viewport={"width": 1300, "height": 1000})
    page = context.new_page()
    page.set_default_timeout(180_000)
    yield page
    context.close()
