"""Voila's settings for the dashboards: `voila reports --Voila.config_file_paths=reports/theme`.

Voila wants this file's name, and the file must not lie beside the notebooks: there it would hide the package `voila` from
them. Viewers get nothing but these pages: no code, no
other template, no file but pictures, and no address outside this machine.
"""

import os
from pathlib import Path

here = Path(__file__).resolve().parent
# The theme is found where it lies, so nothing has to be installed into Jupyter's data folders.
os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, (str(here), os.environ.get("JUPYTER_PATH"))))

c = get_config()  # noqa: F821
c.Voila.ip = "127.0.0.1"
c.Voila.port = 8866
c.Voila.open_browser = False
c.Voila.tornado_settings = {
    "compress_response": True,
    "headers": {
        "Content-Security-Policy": "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    },
}
c.VoilaConfiguration.template = "nbops"
c.VoilaConfiguration.theme = "light"  # the page itself follows the reader's choice of light or dark
c.VoilaConfiguration.classic_tree = True
c.VoilaConfiguration.allow_template_override = "NO"
c.VoilaConfiguration.allow_theme_override = "NO"
c.VoilaConfiguration.show_tracebacks = False
c.VoilaConfiguration.extension_allowlist = [
    "@jupyter-widgets/jupyterlab-manager",
    "@voila-dashboards/widgets-manager8",
    "jupyterlab-plotly",
]
# Kernels wait with everything imported (150 MB each) and read the store when a visitor comes
# (nbops.pages.wait_for_visitor). The next one starts some seconds later, so that it does not slow down this visitor.
c.VoilaConfiguration.preheat_kernel = True
c.VoilaConfiguration.default_pool_size = int(os.environ.get("NBOPS_DASHBOARD_POOL", "2"))
c.VoilaKernelManager.fill_delay = 4.0
# Under load an output may come late; nbclient's four seconds would drop it without a word.
c.VoilaExecutor.iopub_timeout = 120
# A closed tab leaves its kernel behind: end it after five minutes without a page.
c.MappingKernelManager.cull_idle_timeout = 300
c.MappingKernelManager.cull_interval = 30
