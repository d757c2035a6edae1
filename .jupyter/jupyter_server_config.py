"""Settings of `make lab`, on top of your own. Jupyter finds this file through JUPYTER_CONFIG_PATH."""

# The packages switch these on by themselves. With JupyterLab 4, ploomber's and jupytext's answer every request for a file
# with an error; nbclassic is the old notebook page.
unwanted = ["ploomber", "ploomber_extension", "jupyterlab_jupytext", "nbclassic"]
c.ServerApp.jpserver_extensions = dict.fromkeys(unwanted, False)


def save_without_outputs(model, path, **_):
    """Keep outputs out of git. They stay on screen; a run keeps its executed notebooks in store/."""
    if model["type"] != "notebook" or path.startswith("store/"):
        return
    for cell in model["content"]["cells"]:
        if cell["cell_type"] == "code":
            cell.update(outputs=[], execution_count=None)


c.ContentsManager.pre_save_hook = save_without_outputs
