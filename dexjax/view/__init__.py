"""`python -m dexjax.view TARGET`: runs, episodes, meshes, assets and hands in a browser.

Nothing here needs a display or OpenGL on this machine; the browser draws. Each kind of target is
one small function (`dexjax.view.targets`).
"""
