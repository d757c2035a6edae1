"""Settings of `make lab`, on top of your own. Jupyter finds this file through JUPYTER_CONFIG_PATH."""

# The packages switch these on by themselves. With JupyterLab 4, ploomber's and jupytext's answer every request for a file
# with an error; nbclassic is the old notebook page.
unwanted = ["ploomber", "ploomber_extension", "jupyterlab_jupytext", "nbclassic"]
c.ServerApp.jpserver_extensions = dict.fromkeys(unwanted, False)


# An opened stage shows the values of the newest run, so that Run All works; nothing of it, and no output, is saved.
c.ServerApp.contents_manager_class = "nbops.lab.StageContents"

# `nbops debug` leaves a kernel alive; here it can be chosen for a notebook.
c.ServerApp.allow_external_kernels = True
